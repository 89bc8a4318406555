"""What control and the guards tell each other.

Orders go from control to the guard; reports come back from it, or from the watcher in its stead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "NEVER",
    "Armed",
    "Command",
    "Dead",
    "Event",
    "Exited",
    "Fencing",
    "GuardLost",
    "Idle",
    "Kill",
    "Killing",
    "Launch",
    "Lease",
    "Leave",
    "Lock",
    "Message",
    "Ready",
    "Seen",
    "Setup",
    "Started",
    "Stop",
    "Stuck",
]


NEVER = -(2**62) / 1e9  # s; before every moment


@dataclass(frozen=True)
class Lease:
    """What the deadline page says. Token 0: there is no reign."""

    token: int = 0
    deadline: float = NEVER  # s of CLOCK_BOOTTIME


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


@dataclass(frozen=True)
class Setup:
    """What both guards have to know from the start."""

    lock: Lock | None
    kill: float  # s; what is not dead this long after SIGKILL counts as unkillable
    slack: float  # s; how much later than the guard the watcher acts
    patience: float  # s; how long a control past its deadline may take to notice that


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
class Seen:
    """Control has read that the broker is dead: it is not frozen."""

    token: int


@dataclass(frozen=True)
class Leave:
    """The other guard is gone, and control knows that the broker is dead."""


# --- reports ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A guard is up; its pidfd comes along."""

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

    @property
    def how(self) -> str:
        """For people."""
        if self.reason:
            return self.reason
        return f"signal {-self.status}" if self.status < 0 else f"exit code {self.status}"


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
    """Both guards are gone, as one died or was frozen: `Guard.begin` before the next launch.

    A broker that was alive is fenced, or could not be: `Dead` has come before this.
    """

    cause: str
    were_up: bool = True  # else they can't be started, and trying at once won't help


# --- between the guards -----------------------------------------------------------------------


@dataclass(frozen=True)
class Armed:
    """A broker is about to be started."""

    token: int
    has_lock: bool  # a copy of the lock's descriptor comes along


@dataclass(frozen=True)
class Killing:
    """The guard is at work."""


@dataclass(frozen=True)
class Stuck:
    """Something can't be killed; that is no reason to suspect the guard."""


@dataclass(frozen=True)
class Idle:
    """All are dead. The watcher closes its copy of the lock's descriptor and says the same."""


Order: TypeAlias = Launch | Stop | Kill | Seen | Leave
Report: TypeAlias = Ready | Started | Exited | Fencing | Dead
Message: TypeAlias = Setup | Order | Report | Armed | Killing | Stuck | Idle
Event: TypeAlias = Started | Exited | Fencing | Dead | GuardLost
