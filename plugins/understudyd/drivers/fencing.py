"""What the fencer of an exec driver does and when. Pure: events and `now` in, actions out.

Rules
* The broker lives until the deadline of its own reign at the most. A deadline of another reign, or
  none, is one that has passed.
* From the beginning of promote until fence or demote has succeeded there is something to fence.
  Fencing is tried until it succeeds, whoever asked for it, and waits for nothing.
* What a promote that did not succeed has left running could start the broker after it was fenced:
  it is killed first. What a promote that succeeded left running may be the broker, and is for the
  commands to end. Who takes over from another fencer does not know which it was: it kills both.
* The lock is let go of only when the broker is fenced: by the sidecar if it lives, else here. A
  sidecar that does not notice within `PATIENCE` that its broker is dead is frozen, and may have the
  lock open: it is ended.
* A fence that fails is told to the sidecar; where that is dead, to whoever reads its log.

===========  ==========================================================================
state        means
===========  ==========================================================================
IDLE         no broker lives
PROMOTING    promote is under way
RUNNING      promote has succeeded
DEMOTING     demote is under way
FENCING      fence is under way
FAILED       fence has failed, and is tried again soon
===========  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from understudyd.guard.words import NEVER, Dead, Exited, Kill, Launch, Lease, Seen, Started, Stop

__all__ = [
    "Abort",
    "Action",
    "EndSidecar",
    "Ended",
    "Event",
    "Fencing",
    "LetGo",
    "Lost",
    "Quit",
    "Release",
    "Run",
    "State",
    "Sweep",
    "TakeOver",
    "Tell",
    "Tick",
    "Warn",
]

PATIENCE = 2.0  # s
AGAIN = 1.0  # s after a fence command that failed


class State(Enum):
    IDLE = "idle"
    PROMOTING = "promoting"
    RUNNING = "running"
    DEMOTING = "demoting"
    FENCING = "fencing"
    FAILED = "fence failed"


# --- events, besides the orders ---------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Ended:
    """The command under way has ended, or was ended as its time was up."""

    ok: bool
    detail: str


@dataclass(frozen=True)
class Lost:
    """The sidecar is gone."""


@dataclass(frozen=True)
class TakeOver:
    """The fencer before is gone, and a broker of this token may live."""

    token: int


Event: TypeAlias = Launch | Stop | Kill | Seen | Tick | Ended | Lost | TakeOver

# --- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Begin the command of this name; end it at ``until``, or after its own limit; answer with
    Ended."""

    command: str  # promote, demote or fence
    until: float = math.inf


@dataclass(frozen=True)
class Abort:
    """Kill the command under way, if there is one."""


@dataclass(frozen=True)
class Sweep:
    """Kill what promote has left running."""


@dataclass(frozen=True)
class Tell:
    """To the sidecar."""

    report: Started | Exited | Dead


@dataclass(frozen=True)
class Warn:
    """For the log."""

    text: str


@dataclass(frozen=True)
class LetGo:
    """Close our copies of the lock's descriptors."""


@dataclass(frozen=True)
class Release:
    """The sidecar is dead: let the lock of this reign go in its place, descriptors included."""

    token: int


@dataclass(frozen=True)
class EndSidecar:
    """SIGKILL."""


@dataclass(frozen=True)
class Quit:
    """Nothing is left to fence, and nobody to promote for."""


Action: TypeAlias = Run | Abort | Sweep | Tell | Warn | LetGo | Release | EndSidecar | Quit


class Fencing:
    def __init__(self) -> None:
        self.state = State.IDLE
        self.token = 0  # of the broker that may live, or the last one
        self._next = math.inf  # IDLE: end the sidecar then; FAILED: fence again then
        self._begun = math.nan  # when fencing began
        self._is_orphan = False

    def __repr__(self) -> str:
        return f"<Fencing {self.state.value} token={self.token}>"

    def due(self, lease: Lease) -> float:
        """When to feed `Tick` at the latest."""
        if self.state in _LIVING:
            return lease.deadline if lease.token == self.token else NEVER
        return self._next

    def receive(self, event: Event, lease: Lease, now: float) -> list[Action]:
        """Take in what happened; return what to do, in order."""
        actions: list[Action] = []
        handler = _TABLE.get((self.state, type(event)))
        if handler is not None:
            actions += handler(self, event, lease, now)
        if now >= self.due(lease):
            actions += self._overdue(now)
        return actions

    # --- no broker lives ------------------------------------------------------------------------

    def _launch(self, event: Launch, lease: Lease, now: float) -> list[Action]:
        if lease.token != event.token or now >= lease.deadline:
            return [Tell(Dead(event.token, 0.0, cause="its lease was over"))]
        self.token = event.token
        self._next = math.inf
        self.state = State.PROMOTING
        return [Run("promote")]

    def _nothing_lives(self, event: Stop | Kill, _: Lease, __: float) -> list[Action]:
        return [Tell(Dead(event.token, 0.0, cause="nothing was running"))]

    def _noticed(self, event: Seen, _: Lease, __: float) -> list[Action]:
        if event.token == self.token:
            self._next = math.inf
        return []

    def _lost_when_idle(self, _: Lost, lease: Lease, __: float) -> list[Action]:
        return [*([Release(lease.token)] if lease.token else []), Quit()]

    def _take_over(self, event: TakeOver, _: Lease, now: float) -> list[Action]:
        self.token = event.token
        return [Sweep(), *self._fence(now)]

    # --- a broker may live ----------------------------------------------------------------------

    def _promote_ended(self, event: Ended, _: Lease, now: float) -> list[Action]:
        if event.ok:
            self.state = State.RUNNING
            return [Tell(Started(self.token, 0))]
        told = Tell(Exited(self.token, 1, f"promote failed: {event.detail}"))
        return [told, *self._fence(now)]

    def _stop(self, event: Stop, _: Lease, __: float) -> list[Action]:
        self.state = State.DEMOTING
        return [Run("demote", event.until)]

    def _demote_ended(self, event: Ended, _: Lease, now: float) -> list[Action]:
        return self._over("demote succeeded", 0.0, now) if event.ok else self._fence(now)

    def _ordered(self, _: Stop | Kill, __: Lease, now: float) -> list[Action]:
        return self._fence(now)

    def _lost(self, _: Lost, __: Lease, now: float) -> list[Action]:
        self._is_orphan = True
        return self._fence(now)

    # --- fencing --------------------------------------------------------------------------------

    def _fence(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.state in (State.PROMOTING, State.DEMOTING):
            actions.append(Abort())
        if self.state is State.PROMOTING:
            actions.append(Sweep())
        self.state = State.FENCING
        self._begun = now
        return [*actions, Run("fence")]

    def _fence_ended(self, event: Ended, _: Lease, now: float) -> list[Action]:
        took = now - self._begun
        if event.ok:
            return self._over("fence succeeded", took, now)
        self.state = State.FAILED
        self._next = now + AGAIN
        if self._is_orphan:
            return [
                Warn(f"the lock is kept, as the sidecar is dead and fence failed: {event.detail}")
            ]
        return [Tell(Dead(self.token, took, (f"the broker (fence failed: {event.detail})",)))]

    def _lost_too(self, _: Lost, __: Lease, ___: float) -> list[Action]:
        self._is_orphan = True
        return []

    def _over(self, cause: str, took: float, now: float) -> list[Action]:
        self.state = State.IDLE
        if self._is_orphan:
            return [Release(self.token), Quit()]
        self._next = now + PATIENCE
        return [LetGo(), Tell(Dead(self.token, took, cause=cause))]

    # --------------------------------------------------------------------------------------------

    def _overdue(self, now: float) -> list[Action]:
        if self.state in _LIVING:
            return self._fence(now)
        self._next = math.inf
        if self.state is State.IDLE:
            return [EndSidecar()]
        self.state = State.FENCING
        return [Run("fence")]


_LIVING = (State.PROMOTING, State.RUNNING, State.DEMOTING)

Handler: TypeAlias = Callable[[Fencing, Any, Lease, float], list[Action]]

_TABLE: dict[tuple[State, type], Handler] = {
    (State.IDLE, Launch): Fencing._launch,
    (State.IDLE, Stop): Fencing._nothing_lives,
    (State.IDLE, Kill): Fencing._nothing_lives,
    (State.IDLE, Seen): Fencing._noticed,
    (State.IDLE, Lost): Fencing._lost_when_idle,
    (State.IDLE, TakeOver): Fencing._take_over,
    (State.PROMOTING, Ended): Fencing._promote_ended,
    (State.PROMOTING, Stop): Fencing._ordered,
    (State.PROMOTING, Kill): Fencing._ordered,
    (State.PROMOTING, Lost): Fencing._lost,
    (State.RUNNING, Stop): Fencing._stop,
    (State.RUNNING, Kill): Fencing._ordered,
    (State.RUNNING, Lost): Fencing._lost,
    (State.DEMOTING, Ended): Fencing._demote_ended,
    (State.DEMOTING, Stop): Fencing._ordered,
    (State.DEMOTING, Kill): Fencing._ordered,
    (State.DEMOTING, Lost): Fencing._lost,
    (State.FENCING, Ended): Fencing._fence_ended,
    (State.FENCING, Lost): Fencing._lost_too,
    (State.FAILED, Lost): Fencing._lost_too,
}
