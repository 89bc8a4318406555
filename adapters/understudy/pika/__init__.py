"""The pika adapter: ``failover:(…)`` for programs written for pika."""

from __future__ import annotations

try:
    import pika as _pika
except ModuleNotFoundError as exc:
    if exc.name != "pika":
        raise
    raise ModuleNotFoundError(
        'understudy.pika needs pika: pip install "understudy[pika]"', name="pika"
    ) from exc

from understudy.pika.async_channel import AsyncChannel
from understudy.pika.async_connection import AsyncConnection
from understudy.pika.async_consumer import Consumer, Message
from understudy.pika.channel import BlockingChannel
from understudy.pika.connection import BlockingConnection
from understudy.pika.errors import (
    ConnectFailed,
    ConnectionLost,
    Nacked,
    Refused,
    SendTimeout,
    TransactionRolledBack,
    Unroutable,
)

__all__ = [
    "AsyncChannel",
    "AsyncConnection",
    "BlockingChannel",
    "BlockingConnection",
    "ConnectFailed",
    "ConnectionLost",
    "Consumer",
    "Message",
    "Nacked",
    "Refused",
    "SendTimeout",
    "TransactionRolledBack",
    "Unroutable",
]

del _pika
