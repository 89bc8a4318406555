"""The custody of one broker: what a guard does and when. Pure: events and `now` in, actions out.

Rules
* The broker lives until the deadline of its own reign at the most. A deadline of another reign, or
  none, is one that has passed.
* It is killed at the deadline, on order, when control is gone, when the other guard is gone, when
  the machine has slept, and what it leaves behind when it ends by itself. Only one that was asked
  to stop may let its processes end one after the other, as one behind a wrapper does. What is then
  left outside of its process group, and was not asked, gets `HELPERS` to notice.
* A reign that a guard has ended never starts a broker again, however late an order for it comes. A
  broker that ended by itself may be started again.
* The lock is let go of only when nothing is left alive. By control, if it lives; else by the guard.
  So a guard without a watcher stays until control sends it away: control may be dying as well.
* Control may be frozen, and its own copy of the lock's descriptor keep the lock. If it does not
  notice, well past its deadline, that its broker is dead, it is ended.

===========  ==========================================================================
state        means
===========  ==========================================================================
IDLE         no broker
RUNNING      the broker runs
STOPPING     it has been asked to stop
KILLING      it is being killed, with everything it started
===========  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

from understudyd.guard.acts import (
    Action,
    Alive,
    Empty,
    EndControl,
    Ended,
    Event,
    KillAll,
    LetGo,
    Look,
    Lost,
    Quit,
    Release,
    Signal,
    Slept,
    Start,
    TakeOver,
    Tell,
)
from understudyd.guard.words import (
    NEVER,
    Dead,
    Exited,
    Fencing,
    Kill,
    Launch,
    Lease,
    Leave,
    Seen,
    Stop,
)

__all__ = ["Custody", "State"]

HELPERS = 2.0  # s
AGAIN = 1.0  # s, until what could not be killed is looked at again


class State(Enum):
    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"
    KILLING = "killing"


class Custody:
    def __init__(self, kill: float, patience: float) -> None:
        """In seconds: what is not dead ``kill`` after SIGKILL is told to be unkillable; control
        gets ``patience`` after its deadline to notice."""
        self.state = State.IDLE
        self.token = 0  # of the broker in custody, or the last one
        self._kill = kill
        self._patience = patience
        self._ended = 0  # the highest reign that is not to have a broker any more
        self._has_lock = False
        self._cause = ""
        self._next = math.inf  # STOPPING: kill then; KILLING: give up then; IDLE: end control then
        self._killed = math.nan  # when killing began
        self._left: tuple[str, ...] = ()
        self._is_last = False  # there is no other guard: start nothing any more
        self._is_control_lost = False

    def __repr__(self) -> str:
        return f"<Custody {self.state.value} token={self.token}>"

    def due(self, lease: Lease) -> float:
        """When to feed `Tick` at the latest."""
        if self.state in (State.RUNNING, State.STOPPING):
            return min(self._next, self._deadline(lease))
        return self._next

    def receive(self, event: Event, lease: Lease, now: float) -> list[Action]:
        """Take in what happened; return what to do, in order."""
        actions: list[Action] = []
        handler = _TABLE.get((self.state, type(event)))
        if handler is not None:
            actions += handler(self, event, lease, now)
        if now >= self.due(lease):
            actions += _OVERDUE[self.state](self, lease, now)
        return actions

    # --- idle -----------------------------------------------------------------------------------

    def _launch(self, event: Launch, lease: Lease, now: float) -> list[Action]:
        self.token = event.token
        if self._is_last:
            return [Tell(Dead(event.token, 0.0, cause="refused: there is no watcher"))]
        if event.token <= self._ended:
            return [Tell(Dead(event.token, 0.0, cause="refused: this reign has been ended"))]
        if now >= self._deadline(lease):
            self._ended = event.token
            return [Tell(Dead(event.token, 0.0, cause="refused: the deadline has passed"))]
        self.state = State.RUNNING
        self._has_lock = event.has_lock
        self._next = math.inf
        return [Start(event)]

    def _nothing_runs(self, event: Stop | Kill, lease: Lease, now: float) -> list[Action]:
        self._ended = max(self._ended, event.token)
        return [Tell(Dead(event.token, 0.0, cause="nothing was running"))]

    def _lost_when_idle(self, event: Lost, lease: Lease, now: float) -> list[Action]:
        self._is_last = True
        if not event.is_control:
            return []
        self._is_control_lost = True
        return self._go(lease)

    def _sent_away(self, event: Leave, lease: Lease, now: float) -> list[Action]:
        return [LetGo(), Quit()]

    def _noticed(self, event: Seen, lease: Lease, now: float) -> list[Action]:
        if event.token == self.token:
            self._next = math.inf
        return []

    def _frozen(self, lease: Lease, now: float) -> list[Action]:
        self._next = math.inf
        return [EndControl()]

    def _take_over(self, event: TakeOver, lease: Lease, now: float) -> list[Action]:
        # of a launch that the guard did not live to read, control waits for the end all the same
        self.token = event.token or lease.token
        self._has_lock = event.has_lock
        self._is_last = True
        return self._begin_killing("its guard was lost", now)

    # --- running --------------------------------------------------------------------------------

    def _stop(self, event: Stop, lease: Lease, now: float) -> list[Action]:
        if event.token != self.token:
            return []
        self._ended = self.token
        self._cause = "it did not stop in time"
        self._next = event.until
        self.state = State.STOPPING
        return [Signal(event.signal)]

    def _ordered(self, event: Kill, lease: Lease, now: float) -> list[Action]:
        if event.token != self.token:
            return []
        self._ended = self.token
        return self._begin_killing(event.cause, now)

    def _lost(self, event: Lost, lease: Lease, now: float) -> list[Action]:
        self._is_last = True
        self._is_control_lost |= event.is_control
        self._ended = self.token
        cause = "control died" if event.is_control else "the watcher died"
        return self._begin_killing(cause, now)

    def _slept(self, event: Slept, lease: Lease, now: float) -> list[Action]:
        self._ended = self.token
        return self._begin_killing("the machine slept", now)

    def _exited(self, event: Ended, lease: Lease, now: float) -> list[Action]:
        told = self._tell(Exited(self.token, event.status, event.reason))
        if self.state is State.KILLING:
            return told
        if self.state is State.STOPPING:
            return [*told, Look()]
        return told + self._begin_killing("it ended", now, is_told=True)

    def _still_there(self, event: Alive, lease: Lease, now: float) -> list[Action]:
        if not event.is_asked and self._cause != _LEFT:
            self._cause = _LEFT
            self._next = min(self._next, now + HELPERS)
        return []

    def _stopped(self, event: Empty, lease: Lease, now: float) -> list[Action]:
        self._cause = "it stopped"
        self._killed = now
        return self._empty(event, lease, now)

    def _overdue(self, lease: Lease, now: float) -> list[Action]:
        self._ended = self.token
        is_late = now >= self._deadline(lease)
        return self._begin_killing("the deadline has passed" if is_late else self._cause, now)

    # --- killing --------------------------------------------------------------------------------

    def _begin_killing(self, cause: str, now: float, *, is_told: bool = False) -> list[Action]:
        self.state = State.KILLING
        self._cause = cause
        self._killed = now
        self._next = now + self._kill
        self._left = ()
        return [KillAll(), *([] if is_told else self._tell(Fencing(self.token, cause)))]

    def _alive(self, event: Alive, lease: Lease, now: float) -> list[Action]:
        self._left = event.left
        return []

    def _give_up(self, lease: Lease, now: float) -> list[Action]:
        """Not for good: if they do die, it is told."""
        is_first = self._next == self._killed + self._kill
        self._next = now + AGAIN
        took = now - self._killed
        dead = Dead(self.token, took, self._left, self._cause)
        return [*(self._tell(dead) if is_first else []), KillAll()]

    def _empty(self, event: Empty, lease: Lease, now: float) -> list[Action]:
        self.state = State.IDLE
        self._next = math.inf
        if self._has_lock and not self._is_control_lost:
            self._next = max(now, self._deadline(lease)) + self._patience
        if self._is_control_lost:
            return self._go(lease)
        return [LetGo(), *self._tell(Dead(self.token, now - self._killed, cause=self._cause))]

    def _lost_too(self, event: Lost, lease: Lease, now: float) -> list[Action]:
        self._is_last = True
        self._is_control_lost |= event.is_control
        self._ended = self.token
        return []

    # --------------------------------------------------------------------------------------------

    def _deadline(self, lease: Lease) -> float:
        return lease.deadline if lease.token == self.token else NEVER

    def _tell(self, report: Exited | Fencing | Dead) -> list[Action]:
        return [] if self._is_control_lost or not self.token else [Tell(report)]

    def _go(self, lease: Lease) -> list[Action]:
        """Control is dead."""
        return [Release(lease.token) if lease.token else LetGo(), Quit()]


_LEFT = "it stopped, but not what it had started"

Handler: TypeAlias = Callable[..., list[Action]]

_TABLE: dict[tuple[State, type], Handler] = {
    (State.IDLE, Launch): Custody._launch,
    (State.IDLE, Stop): Custody._nothing_runs,
    (State.IDLE, Kill): Custody._nothing_runs,
    (State.IDLE, Seen): Custody._noticed,
    (State.IDLE, Leave): Custody._sent_away,
    (State.IDLE, Lost): Custody._lost_when_idle,
    (State.IDLE, TakeOver): Custody._take_over,
    (State.RUNNING, Stop): Custody._stop,
    (State.RUNNING, Kill): Custody._ordered,
    (State.RUNNING, Ended): Custody._exited,
    (State.RUNNING, Slept): Custody._slept,
    (State.RUNNING, Lost): Custody._lost,
    (State.STOPPING, Stop): Custody._stop,
    (State.STOPPING, Kill): Custody._ordered,
    (State.STOPPING, Ended): Custody._exited,
    (State.STOPPING, Alive): Custody._still_there,
    (State.STOPPING, Empty): Custody._stopped,
    (State.STOPPING, Slept): Custody._slept,
    (State.STOPPING, Lost): Custody._lost,
    (State.KILLING, Alive): Custody._alive,
    (State.KILLING, Empty): Custody._empty,
    (State.KILLING, Ended): Custody._exited,
    (State.KILLING, Lost): Custody._lost_too,
}

_OVERDUE: dict[State, Handler] = {
    State.IDLE: Custody._frozen,
    State.RUNNING: Custody._overdue,
    State.STOPPING: Custody._overdue,
    State.KILLING: Custody._give_up,
}
