"""Our errors as pika's users know them.

Rules: what a broker refuses is pika's own error of that kind (ChannelClosedByBroker, NackError,
UnroutableError), and names the message. What says that there is no broker is an
AMQPConnectionError. A `SendTimeout` is a plain AMQPError: who takes it for a lost connection,
connects again and sends again, sends a message twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pika import exceptions

from understudy import errors

__all__ = [
    "CLOSED",
    "IS_CLOSED",
    "ConnectFailed",
    "ConnectionLost",
    "Nacked",
    "ReentrancyError",
    "Refused",
    "RefusedByClosing",
    "SendTimeout",
    "TransactionRolledBack",
    "Unroutable",
    "refused",
]

CLOSED = "the connection was closed while this call waited"
IS_CLOSED = "the connection is closed"  # already when the call began


class SendTimeout(errors.SendTimeout, exceptions.AMQPError):
    """A call did not finish within its timeout."""

    __repr__ = Exception.__repr__


class ConnectFailed(errors.ConnectFailed, exceptions.AMQPConnectionError):
    """No endpoint could be connected to."""

    __repr__ = Exception.__repr__


class ConnectionLost(errors.ConnectionLost, exceptions.AMQPConnectionError):
    """The connection was closed while this call waited."""

    __repr__ = Exception.__repr__


class ReentrancyError(errors.ReentrancyError, exceptions.ReentrancyError):
    """A signal handler waits for the broker on a connection whose own work it has interrupted."""

    __repr__ = Exception.__repr__


class TransactionRolledBack(errors.TransactionRolledBack, exceptions.AMQPChannelError):
    """The transaction was rolled back because of a failover; it may be repeated."""

    __repr__ = Exception.__repr__


class Refused(errors.Refused, exceptions.AMQPError):
    """The broker refused the message."""

    __repr__ = Exception.__repr__


class RefusedByClosing(errors.Refused, exceptions.ChannelClosedByBroker):
    """The broker closed the channel over the message."""

    def __init__(
        self, message: str | None = None, *, message_id: str | None = None, code: int = 0
    ) -> None:
        self.message_id = message_id
        # not the inherited ones: pika's take other arguments; it reads code and text from args
        Exception.__init__(self, code, str(message))

    def __str__(self) -> str:
        return str(self.args[1])

    __repr__ = Exception.__repr__


class Nacked(errors.Refused, exceptions.NackError):
    """The broker answered with basic.nack; ``messages`` as in pika."""

    def __init__(
        self,
        message: str | None = None,
        *,
        message_id: str | None = None,
        messages: Sequence[Any] = (),
    ) -> None:
        self.message_id = message_id
        self.messages = list(messages)
        Exception.__init__(self, message)

    __repr__ = Exception.__repr__


class Unroutable(errors.Unroutable, exceptions.UnroutableError):
    """The message reached no queue; ``messages`` holds it, as in pika."""

    def __init__(
        self,
        message: str | None = None,
        *,
        message_id: str | None = None,
        messages: Sequence[Any] = (),
    ) -> None:
        self.message_id = message_id
        self.messages = list(messages)
        Exception.__init__(self, message)

    __repr__ = Exception.__repr__


def refused(cause: BaseException, message_id: str) -> errors.Refused:
    """The error for a message over which the broker closed the channel or connection."""
    text = f"message {message_id} was refused: {cause}"
    if isinstance(cause, exceptions.ChannelClosed):
        return RefusedByClosing(text, message_id=message_id, code=cause.reply_code)
    return Refused(text, message_id=message_id)
