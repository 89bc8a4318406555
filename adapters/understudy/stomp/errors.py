"""Our errors as stomp.py's users know them; none is an OSError."""

from __future__ import annotations

from stomp.exception import ConnectFailedException, NotConnectedException, StompException

from understudy import errors

__all__ = [
    "CommandRefused",
    "ConnectFailed",
    "ConnectionLost",
    "ReentrancyError",
    "Refused",
    "SendTimeout",
    "TransactionRolledBack",
]


class SendTimeout(errors.SendTimeout, StompException):
    """A send did not finish within its timeout."""


class ConnectFailed(errors.ConnectFailed, ConnectFailedException):
    """No endpoint could be connected to."""


class ConnectionLost(errors.ConnectionLost, NotConnectedException):
    """There is no connection: connect() was not called, or disconnect() was."""


class ReentrancyError(errors.ReentrancyError, StompException):
    """A signal handler waits for the broker on a connection whose own work it has interrupted."""


class Refused(errors.Refused, StompException):
    """The broker refused the message."""


class CommandRefused(errors.UnderstudyError, StompException):
    """The broker refused a command that is no message: SUBSCRIBE, COMMIT, …"""


class TransactionRolledBack(errors.TransactionRolledBack, StompException):
    """The transaction was rolled back because of a failover; it may be repeated."""
