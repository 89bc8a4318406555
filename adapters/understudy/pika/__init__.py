"""The pika adapter: ``failover:(…)`` for programs written for pika.

`BlockingConnection` is a drop-in for pika's, `AsyncConnection` offers the same with coroutines.
What is kept over a failover: channels with their numbers, qos, confirm and tx mode, everything
declared and not deleted, consumers with their tags, callbacks, timers, `consume()` generators.

What is different from pika, on purpose
* A send returns when the broker has confirmed it, also without ``confirm_delivery()``; messages are
  persistent unless their properties say otherwise, and carry an id.
* Any thread may use a connection and its channels. Callbacks run on the thread that processes
  events, one at a time. Heartbeats go on while they do.
* A queue that is declared without a name gets one of ours, so that it is the same on every broker.
* "All so far" (``basic_ack(0, multiple=True)``) means all that the application was given.
* ``connection_attempts`` and ``retry_delay`` of pika's parameters have no effect: the options of
  the failover URI say how to reconnect.

What cannot be kept
* Messages in exclusive and auto-delete queues, and replies that are on their way to one or to
  ``amq.rabbitmq.reply-to``: the consumer is restored, the request has to be made again.
* Deliveries with ``auto_ack`` that were on the network, and a ``basic_get`` of that kind.
* What was acknowledged on an earlier connection and did not arrive there comes again.
"""

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
    ReentrancyError,
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
    "ReentrancyError",
    "Refused",
    "SendTimeout",
    "TransactionRolledBack",
    "Unroutable",
]

del _pika
