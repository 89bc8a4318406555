"""The words of a custody, besides the orders of control: what happened, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from understudyd.guard.words import Dead, Exited, Fencing, Kill, Launch, Leave, Seen, Stop

__all__ = [
    "Action",
    "Alive",
    "Empty",
    "EndControl",
    "Ended",
    "Event",
    "KillAll",
    "LetGo",
    "Look",
    "Lost",
    "Quit",
    "Release",
    "Signal",
    "Slept",
    "Start",
    "TakeOver",
    "Tell",
    "Tick",
]

# --- events, besides the orders ---------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Ended:
    """The broker's first process has ended."""

    status: int
    reason: str = ""


@dataclass(frozen=True)
class Alive:
    """These are not dead yet."""

    left: tuple[str, ...]
    is_asked: bool = True  # one of them is of the process group that `Signal` goes to


@dataclass(frozen=True)
class Empty:
    """Nothing that the broker started is left."""


@dataclass(frozen=True)
class Lost:
    """Control or the other guard is gone: no broker is started here any more."""

    is_control: bool


@dataclass(frozen=True)
class Slept:
    """The machine was suspended."""


@dataclass(frozen=True)
class TakeOver:
    """The guard is gone, and what it had in custody (0: nothing) is ours now."""

    token: int
    has_lock: bool


Event: TypeAlias = (
    Launch | Stop | Kill | Seen | Leave | Tick | Ended | Alive | Empty | Lost | Slept | TakeOver
)

# --- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    launch: Launch


@dataclass(frozen=True)
class Signal:
    """To the broker's process group."""

    number: int


@dataclass(frozen=True)
class KillAll:
    """SIGKILL to everything below us; answer with Alive or Empty, again whenever one has died."""


@dataclass(frozen=True)
class Look:
    """Answer with Alive or Empty, again whenever one has died; kill nothing."""


@dataclass(frozen=True)
class Tell:
    """To control."""

    report: Exited | Fencing | Dead


@dataclass(frozen=True)
class LetGo:
    """Have all copies of the lock's descriptor closed that the guards have."""


@dataclass(frozen=True)
class Release:
    """Control is dead: let the lock of this reign go in its place, descriptors included."""

    token: int


@dataclass(frozen=True)
class EndControl:
    """SIGKILL."""


@dataclass(frozen=True)
class Quit:
    """Nothing is left to guard."""


Action: TypeAlias = Start | Signal | KillAll | Look | Tell | LetGo | Release | EndControl | Quit
