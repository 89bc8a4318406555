"""What users are told, the same in all adapters.

Every event names the endpoint (redacted; empty where none is meant), the reason in words, and the
wall-clock time in seconds since the epoch, given by the shell.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "Blocked",
    "Connected",
    "EndpointsChanged",
    "Event",
    "GaveUp",
    "Interrupted",
    "MessageFailed",
    "Resumed",
    "SlowReconnect",
    "Unblocked",
]


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    endpoint: str = ""
    reason: str = ""
    time: float = field(default=0.0, compare=False)


class Connected(Event):
    """The very first connection of this process (or connection object) is up."""


class Interrupted(Event):
    """The connection was lost, or left on purpose; told before any attempt to reconnect."""


class Resumed(Event):
    """The connection is up again after an `Interrupted`."""


class EndpointsChanged(Event):
    """The list of known endpoints changed; ``reason`` lists it."""


class SlowReconnect(Event):
    """Another ``warnAfterReconnectAttempts`` passes over the endpoints have failed."""


class Blocked(Event):
    """The broker asked publishers to pause (memory or disk alarm)."""


class Unblocked(Event):
    """The broker takes messages again."""


@dataclass(frozen=True)
class MessageFailed(Event):
    """A tracked message was refused, or was still unconfirmed (and is kept) when close gave up."""

    message_id: str = ""


class GaveUp(Event):
    """Reconnecting was given up; the caller gets the error."""
