"""The words of the node: what happened goes in, what to do comes out.

The events of the keeper and of the driver are taken in as they are; the keeper's Read, Swap and
Extend come out as they are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TypeAlias

from understudyd.board.port import Answer, Request
from understudyd.drivers import port as driver
from understudyd.drivers.port import Reign
from understudyd.health.port import Health
from understudyd.lock import words as lock
from understudyd.status import Member

__all__ = [
    "Action",
    "Asked",
    "Check",
    "Checked",
    "Close",
    "Demote",
    "Event",
    "Follow",
    "Kill",
    "Launch",
    "Note",
    "Peers",
    "Prepare",
    "Prepared",
    "Quit",
    "Reply",
    "Say",
    "Slept",
    "Stop",
    "say",
]

# --- events -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """The answer to Prepare. A veto ends the reign before a broker was started."""

    token: int
    veto: str = ""
    known: int = 0  # the highest token that a store has seen


@dataclass(frozen=True)
class Checked:
    """The answer to the check of that number."""

    number: int
    health: Health


@dataclass(frozen=True)
class Peers:
    """What the board shows: all nodes of the group, this one too."""

    members: tuple[Member, ...]


@dataclass(frozen=True)
class Asked:
    """A request, from the board or from this node's API."""

    request: Request


@dataclass(frozen=True)
class Slept:
    """The machine stood still, and all its clocks but one with it."""

    seconds: float


@dataclass(frozen=True)
class Stop:
    """End: hand over if we are master. The second one does not wait for what can't be killed."""


Event: TypeAlias = lock.Event | driver.Event | Prepared | Checked | Peers | Asked | Slept | Stop

# --- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    """Fence the old holder, stamp the stores, run pre_promote; answer with Prepared."""

    reign: Reign
    old: str  # the holder before, whose broker may have to be fenced; empty: proven dead, or none
    patience: float  # s, for the stores
    instance: str  # of our record


@dataclass(frozen=True)
class Launch:
    """Start the broker, unless the deadline has passed by now."""

    reign: Reign
    deadline: float


@dataclass(frozen=True)
class Demote:
    until: float


@dataclass(frozen=True)
class Kill:
    cause: str


@dataclass(frozen=True)
class Close:
    """The lock is not ours any more, and no broker needs it: close the backend, tell the driver."""


@dataclass(frozen=True)
class Check:
    """Ask the broker how it is; answer with Checked."""

    number: int


@dataclass(frozen=True)
class Follow:
    """Run the hook of this name; nobody waits for it."""

    hook: str
    reign: Reign


@dataclass(frozen=True)
class Note:
    """For the history: what this node has become."""

    token: int
    role: str
    cause: str
    took_s: float


@dataclass(frozen=True)
class Reply:
    request: Request
    answer: Answer


@dataclass(frozen=True)
class Say:
    """For the log."""

    level: int
    text: str


def say(text: str, level: int = logging.INFO) -> Say:
    return Say(level, text)


@dataclass(frozen=True)
class Quit:
    code: int
    reason: str = ""


Action: TypeAlias = (
    lock.Read
    | lock.Swap
    | lock.Extend
    | Prepare
    | Launch
    | Demote
    | Kill
    | Close
    | Check
    | Follow
    | Note
    | Reply
    | Say
    | Quit
)
