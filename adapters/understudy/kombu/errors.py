"""Our errors as kombu's users know them.

Rules: what ends a call for good is kombu's OperationalError, which Celery's users catch already,
and is in no recoverable tuple, so kombu does not retry it in a loop of its own. What a broker
refuses stays the host library's own error (NotFound, AccessRefused, MessageNacked, …) and names
the message.
"""

from __future__ import annotations

import amqp
from kombu.exceptions import OperationalError

from understudy import errors

__all__ = [
    "CLOSED",
    "ConnectFailed",
    "ConnectionLost",
    "ReentrancyError",
    "Refused",
    "SendTimeout",
    "Unroutable",
    "refused",
]


CLOSED = "the connection was closed while this call waited"


class SendTimeout(errors.SendTimeout, OperationalError):
    """A send did not finish within its timeout."""


class ConnectFailed(errors.ConnectFailed, OperationalError):
    """No endpoint could be connected to."""


class ConnectionLost(errors.ConnectionLost, OperationalError):
    """The connection is gone and there is no other: reconnect=false, or it was closed."""


class ReentrancyError(errors.ReentrancyError, OperationalError):
    """A signal handler wants a connection while the search for one is what it has interrupted."""


class Refused(errors.Refused, OperationalError):
    """The broker refused the message."""


class Unroutable(errors.Unroutable, amqp.exceptions.ChannelError):
    """The message reached no queue."""

    def __init__(self, message: str | None = None, *, message_id: str | None = None) -> None:
        errors.Unroutable.__init__(self, message, message_id=message_id)
        self.reply_text = str(message)
        self.args = (message,)  # py-amqp shows and pickles its own, which mean nothing here

    __str__ = Exception.__str__


class RefusedNacked(errors.Refused, amqp.exceptions.MessageNacked):
    """The broker answered with basic.nack."""


def _refusal(host_error: type[amqp.exceptions.AMQPError]) -> type[errors.Refused]:
    """The class of a refusal that is also the host's own error of this kind."""

    def __init__(
        self: errors.Refused, message: str | None = None, *, message_id: str | None = None
    ) -> None:
        errors.Refused.__init__(self, message, message_id=message_id)
        self.reply_text = str(message)  # type: ignore[attr-defined]
        self.args = (message,)

    body = {"__init__": __init__, "__str__": Exception.__str__, "__module__": __name__}
    return type(f"Refused{host_error.__name__}", (errors.Refused, host_error), body)


RefusedAccessRefused = _refusal(amqp.exceptions.AccessRefused)
RefusedChannelError = _refusal(amqp.exceptions.ChannelError)
RefusedConnectionError = _refusal(amqp.exceptions.ConnectionError)
RefusedFrameSyntaxError = _refusal(amqp.exceptions.FrameSyntaxError)
RefusedNotFound = _refusal(amqp.exceptions.NotFound)
RefusedPreconditionFailed = _refusal(amqp.exceptions.PreconditionFailed)

#: 311 (content too large) stays a plain ChannelError: kombu would retry its own class for ever
REFUSALS: dict[type[BaseException], type[errors.Refused]] = {
    amqp.exceptions.AccessRefused: RefusedAccessRefused,
    amqp.exceptions.MessageNacked: RefusedNacked,
    amqp.exceptions.FrameSyntaxError: RefusedFrameSyntaxError,
    amqp.exceptions.NotFound: RefusedNotFound,
    amqp.exceptions.PreconditionFailed: RefusedPreconditionFailed,
    amqp.exceptions.ChannelError: RefusedChannelError,
    amqp.exceptions.ConnectionError: RefusedConnectionError,
}


def refused(cause: BaseException, message_id: str) -> errors.Refused:
    """The error for a message that the broker, or AMQP itself, refused with ``cause``."""
    kind = next((ours for theirs, ours in REFUSALS.items() if isinstance(cause, theirs)), Refused)
    return kind(f"message {message_id} was refused: {cause}", message_id=message_id)
