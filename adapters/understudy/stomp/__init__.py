"""The stomp.py adapter: ``failover:(…)`` for programs written for stomp.py."""

from __future__ import annotations

try:
    import stomp as _stomp
except ModuleNotFoundError as exc:
    if exc.name != "stomp":
        raise
    raise ModuleNotFoundError(
        'understudy.stomp needs stomp.py: pip install "understudy[stomp]"', name="stomp"
    ) from exc

from understudy.stomp.connection import Connection11, Connection12
from understudy.stomp.errors import (
    CommandRefused,
    ConnectFailed,
    ConnectionLost,
    Refused,
    SendTimeout,
    TransactionRolledBack,
)

Connection = Connection12

__all__ = [
    "CommandRefused",
    "ConnectFailed",
    "Connection",
    "Connection11",
    "Connection12",
    "ConnectionLost",
    "Refused",
    "SendTimeout",
    "TransactionRolledBack",
]

del _stomp
