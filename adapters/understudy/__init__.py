"""Failover URIs for the AMQP and STOMP clients that people already use."""

from __future__ import annotations

from understudy.core.endpoint import Endpoint
from understudy.core.events import (
    Blocked,
    Connected,
    EndpointsChanged,
    Event,
    GaveUp,
    Interrupted,
    MessageFailed,
    Resumed,
    SlowReconnect,
    Unblocked,
)
from understudy.core.options import Options
from understudy.core.redact import redact
from understudy.core.uri import FailoverURI, parse
from understudy.errors import (
    Attempt,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    DeliveryFailed,
    LockLost,
    ReentrancyError,
    Refused,
    SendTimeout,
    TransactionRolledBack,
    UnderstudyError,
    Unroutable,
)

__all__ = [
    "Attempt",
    "Blocked",
    "ConfigurationError",
    "ConnectFailed",
    "Connected",
    "ConnectionLost",
    "DeliveryFailed",
    "Endpoint",
    "EndpointsChanged",
    "Event",
    "FailoverURI",
    "GaveUp",
    "Interrupted",
    "LockLost",
    "MessageFailed",
    "Options",
    "ReentrancyError",
    "Refused",
    "Resumed",
    "SendTimeout",
    "SlowReconnect",
    "TransactionRolledBack",
    "Unblocked",
    "UnderstudyError",
    "Unroutable",
    "parse",
    "redact",
]

__version__ = "0.1.0"
