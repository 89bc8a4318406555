"""The words of the keeper: what happened goes in, what to do comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord

__all__ = [
    "Action",
    "Event",
    "Extend",
    "Failed",
    "Fence",
    "Fenced",
    "Hint",
    "Permit",
    "Promote",
    "Read",
    "Refuse",
    "Released",
    "Seen",
    "Step",
    "Swap",
    "Tick",
]

# --- events -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Hint:
    """The record may have changed: look now."""


@dataclass(frozen=True)
class Seen:
    """The answer to an attempt."""

    attempt: int
    observation: Observation


@dataclass(frozen=True)
class Failed:
    """An attempt ended without an answer; it may have been carried out."""

    attempt: int
    cause: str


@dataclass(frozen=True)
class Permit:
    """Whether this node may campaign, and how many seconds later than the best candidate."""

    may_campaign: bool
    delay: float = 0.0


@dataclass(frozen=True)
class Step:
    """Step down: hand over, shut down, or the broker is ill.

    It ends this reign only; ``Permit(False)`` before it keeps this node from the next one. The
    tombstone names the ``heir``, for the others to let that node go first.
    """

    cause: str
    heir: str = ""


@dataclass(frozen=True)
class Fenced:
    """The broker, with all that it started, is dead and reaped."""


Event: TypeAlias = Tick | Hint | Seen | Failed | Permit | Step | Fenced

# --- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    attempt: int


@dataclass(frozen=True)
class Swap:
    attempt: int
    expected: Observation
    record: LockRecord


@dataclass(frozen=True)
class Promote:
    """The lock is ours until the deadline, which later actions may extend."""

    token: int
    deadline: float
    cause: str


@dataclass(frozen=True)
class Extend:
    deadline: float


@dataclass(frozen=True)
class Fence:
    """Have the broker dead at the deadline; answer with Fenced. ``is_lost``: at once."""

    cause: str
    deadline: float
    is_lost: bool


@dataclass(frozen=True)
class Released:
    """The lock is no longer ours, and no broker needs it: close the backend, which may hold it."""


@dataclass(frozen=True)
class Refuse:
    """This node can't take part; the cause is for the operator. Told once for each cause."""

    cause: str


Action: TypeAlias = Read | Swap | Promote | Extend | Fence | Released | Refuse
