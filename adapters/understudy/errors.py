"""The one error tree of Understudy.

The class docstring is the default message. Errors that are raised into a host library (kombu,
pika, stomp.py) are subclasses made by the adapter that are also the host's own error class, so
existing ``except`` clauses keep working. None of these is an OSError: a host would take an
OSError for a lost connection and retry what must not be retried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "Attempt",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "DeliveryFailed",
    "LockLost",
    "ReentrancyError",
    "Refused",
    "SendTimeout",
    "TransactionRolledBack",
    "UnderstudyError",
    "Unroutable",
]


@dataclass(frozen=True)
class Attempt:
    """One failed try to connect: the endpoint (redacted) and why it failed."""

    endpoint: str
    cause: str

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.cause}"


class UnderstudyError(Exception):
    """Something that Understudy does failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigurationError(UnderstudyError, ValueError):
    """A URI, an option or a setting is wrong; nothing was tried."""


class ConnectFailed(UnderstudyError):
    """No endpoint could be connected to."""

    def __init__(self, message: str | None = None, attempts: Sequence[Attempt] = ()) -> None:
        self.attempts = tuple(attempts)
        text = message or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__("\n  ".join([text, *map(str, self.attempts)]))


class ReentrancyError(UnderstudyError):
    """A signal handler waits for the broker on a connection whose own work it has interrupted."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message
            or "this signal handler has interrupted the connection at its own work, so no answer "
            "can come: only leave a note in the handler, and send after the call it has interrupted"
        )


class ConnectionLost(UnderstudyError):
    """The connection to the broker was lost."""


class SendTimeout(UnderstudyError):
    """A send did not finish within its timeout.

    ``message_id`` names the message; ``written`` tells whether it may have reached a broker (in
    doubt) or was never sent. It has left the outbox and is never resent by us.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        message_id: str | None = None,
        written: bool = False,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        self.message_id = message_id
        self.written = written
        self.attempts = tuple(attempts)
        text = message or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__("\n  ".join([text, *map(str, self.attempts)]))


class DeliveryFailed(UnderstudyError):
    """A broker did not accept a message; ``message_id`` names it."""

    def __init__(self, message: str | None = None, *, message_id: str | None = None) -> None:
        self.message_id = message_id
        super().__init__(message)


class Unroutable(DeliveryFailed):
    """The message reached no queue, and the sender asked to be told."""


class Refused(DeliveryFailed):
    """The broker refused the message."""


class TransactionRolledBack(UnderstudyError):
    """The transaction was rolled back because of a failover; it may be repeated.

    ``message_ids`` are the ids of what was sent in it: a repeat under the same ids can be
    recognised by consumers. ``is_in_doubt`` tells that the broker may have committed it.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        message_ids: Sequence[str] = (),
        is_in_doubt: bool = False,
    ) -> None:
        self.message_ids = tuple(message_ids)
        self.is_in_doubt = is_in_doubt
        super().__init__(message)


class LockLost(UnderstudyError):
    """The lock is no longer ours."""
