"""The words of the failover machine: what happened goes in, what to do comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from understudy.core.endpoint import Endpoint
from understudy.core.events import Event
from understudy.errors import Attempt

__all__ = [
    "Action",
    "Closed",
    "CutShort",
    "Dial",
    "DialFailed",
    "Dialed",
    "Fail",
    "Happening",
    "Hurry",
    "Leave",
    "Listed",
    "Lost",
    "Prefer",
    "Spares",
    "Tell",
    "TimeUp",
    "Wait",
    "Wanted",
]


# --- what happened ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """Somebody needs a connection."""


@dataclass(frozen=True)
class CutShort:
    """An exception from elsewhere came between a decision and its actions: they are not done."""


@dataclass(frozen=True)
class Dialed:
    """A connection to this endpoint is up, handshake done."""

    endpoint: Endpoint


@dataclass(frozen=True)
class DialFailed:
    """``is_refusal``: its endpoint serves other connections of ours, and refused this one."""

    endpoint: Endpoint
    cause: str
    is_refusal: bool = False


@dataclass(frozen=True)
class Lost:
    """A connection of this epoch broke, or its peer is taken for dead."""

    epoch: int
    reason: str


@dataclass(frozen=True)
class TimeUp:
    """The delay that was asked for is over."""


@dataclass(frozen=True)
class Listed:
    """The endpoints found beside the configured ones are now these.

    ``rebalance``: the cluster asks its clients to spread over the new list. ``troubles`` tells of
    each source that has found nothing why that is so.
    """

    endpoints: tuple[Endpoint, ...]
    rebalance: bool = False
    troubles: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Spares:
    """Ready connections exist to exactly these endpoints."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class Prefer:
    """Move to this endpoint now: a priority endpoint is back, or the cluster asks for it."""

    endpoint: Endpoint
    reason: str


@dataclass(frozen=True)
class Closed:
    """The owner is done."""


Happening: TypeAlias = (
    Wanted | CutShort | Dialed | DialFailed | Lost | TimeUp | Listed | Spares | Prefer | Closed
)

# --- what to do -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dial:
    """Connect to this endpoint (or take a spare to it), then report Dialed or DialFailed."""

    endpoint: Endpoint


@dataclass(frozen=True)
class Wait:
    """Dial nothing, and report TimeUp after so many ms, at once if 0; replaces an earlier Wait."""

    ms: float


@dataclass(frozen=True)
class Hurry:
    """Let the present delay last no longer than so many ms, counted from its beginning."""

    ms: float


@dataclass(frozen=True)
class Leave:
    """Break every connection of this epoch, without any graceful close."""

    epoch: int
    reason: str


@dataclass(frozen=True)
class Tell:
    event: Event


@dataclass(frozen=True)
class Fail:
    """Give everyone who waits an error with these attempts."""

    reason: str
    attempts: tuple[Attempt, ...]


Action: TypeAlias = Dial | Wait | Hurry | Leave | Tell | Fail
