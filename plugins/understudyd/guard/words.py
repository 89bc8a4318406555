"""What control and the guards tell each other.

Orders go from control to the guard; reports come back from it, or from the watcher in its stead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Beat",
    "Command",
    "Dead",
    "Event",
    "Exited",
    "Fencing",
    "GuardLost",
    "Kill",
    "Launch",
    "Lock",
    "Message",
    "Ready",
    "Seen",
    "Started",
    "Stop",
]


@dataclass(frozen=True)
class Lock:
    """What a guard needs to let the lock go when control is dead."""

    uri: str
    group: str
    instance: str  # of the holder's record
    attempt: float  # s, for one attempt


@dataclass(frozen=True)
class Command:
    """A broker to start."""

    argv: tuple[str, ...]
    env: Mapping[str, str]  # all of it; nothing is inherited, nothing added
    cwd: str = "/"
    user: str | None = None  # None = control's own; else needs root
    umask: int = 0o022


# --- orders -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    token: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    umask: int
    ids: tuple[int, int, tuple[int, ...]] | None  # user, group, all groups; None = as we are
    has_lock: bool  # the first descriptor is the lock's


@dataclass(frozen=True)
class Stop:
    """Ask the broker to stop, and kill it at ``until``, or at the deadline if that is earlier."""

    token: int
    signal: int
    until: float  # s of CLOCK_BOOTTIME


@dataclass(frozen=True)
class Kill:
    token: int
    cause: str


@dataclass(frozen=True)
class Beat:
    """Answered by the same: neither guard is frozen."""

    number: int


@dataclass(frozen=True)
class Seen:
    """Control has read that the broker is dead: it is not frozen."""

    token: int


# --- reports ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A guard is there."""

    pid: int


@dataclass(frozen=True)
class Started:
    """The broker's first process runs; nothing is known yet about its health."""

    token: int
    pid: int


@dataclass(frozen=True)
class Exited:
    """The broker's first process has ended. What it left behind is being killed: `Dead` follows."""

    token: int
    status: int  # exit code; -N for signal N
    reason: str = ""  # why it could not even be started


@dataclass(frozen=True)
class Fencing:
    """The broker is being killed."""

    token: int
    cause: str


@dataclass(frozen=True)
class Dead:
    """The broker and all that it started are dead and reaped; no guard has the lock open any more.

    With ``left`` it is the opposite: these could not be killed in time. The lock must not be let
    go; a `Dead` without ``left`` follows if they do die.
    """

    token: int
    took_s: float  # from the first SIGKILL until all were reaped, or given up
    left: tuple[str, ...] = ()
    cause: str = ""


@dataclass(frozen=True)
class GuardLost:
    """A guard died, or was frozen and killed: `Guard.start` anew before the next launch.

    A broker that was alive is fenced: `Dead` has come before this.
    """

    cause: str


Message: TypeAlias = Launch | Stop | Kill | Beat | Seen | Ready | Started | Exited | Fencing | Dead
Event: TypeAlias = Started | Exited | Fencing | Dead | GuardLost
