"""What a link does when its table asks for it, and what it does besides; no I/O, no clock.

`link.Link` is told what happens, and stands on this. Every step leaves what is to be done in
``_actions``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial

from understudyd.bridge.parts import ENDING, Parts
from understudyd.bridge.settings import FIRST_WINDOW, LONGEST_IN_FLIGHT
from understudyd.bridge.stays import RATE, SHORTEST
from understudyd.bridge.table import TABLE
from understudyd.bridge.words import (
    Action,
    AskSource,
    CloseSource,
    CloseTarget,
    Finished,
    Happening,
    OpenSource,
    OpenTarget,
    State,
    Step,
    Timer,
    Widen,
)

__all__ = ["Steps"]

STAYING = "messages that may not be forwarded stay in the queue for its broker's own consumers"


class Steps(Parts):
    """A link, from its parts to its table."""

    # What the table asks for

    def _happen(self, happening: Happening, now: float, reason: str = "") -> list[Action]:
        self._now = now
        self._happen_within(happening, reason)
        return self._take_actions()

    def _happen_within(self, happening: Happening, reason: str = "") -> None:
        if (found := TABLE.get((self.state, happening))) is None:
            return
        before, (self.state, steps) = self.state, found
        self.reasons.enter(self.state, before, reason)
        for step in steps:
            self._steps[step]()

    @cached_property
    def _steps(self) -> Mapping[Step, Callable[[], object]]:
        return {
            Step.OPEN_TARGET: self._open_target,
            Step.CLOSE_TARGET: partial(self._do, CloseTarget()),
            Step.ABANDON_TARGET: partial(self._do, CloseTarget(has_failed=True)),
            Step.TARGET_LATER: partial(self._connect_later, Timer.TARGET),
            Step.LOSE: self._lose,
            Step.OPEN_SOURCE: self._open_source,
            Step.CLOSE_SOURCE: self._close_source,
            Step.SOURCE_LATER: partial(self._connect_later, Timer.SOURCE),
            Step.COUNT_SOURCE: partial(self._may_connect, Timer.SOURCE),
            Step.FORGET: self._forget,
            Step.RESUME: self._resume,
            Step.RETRY_LATER: partial(self._back_off, Timer.RETRY),
            Step.PROBE: self._probe,
            Step.STALL: self._stall,
            Step.ROOM_LATER: self._room_later,
            Step.DRAIN: self._drain,
            Step.REST: self._timers.clear,
            Step.GIVE_UP: self._give_up,
            Step.FINISH: self._finish,
            Step.ACKNOWLEDGE: self._acknowledge,
            Step.WATCH: self._watch,
            Step.GO_ON: self._go_on,
            Step.END_REST: self._end_rest,
            Step.LEAVE: self._leave,
            Step.LET_GO: self._let_go,
            Step.PARK_ASIDE: self._park_aside,
        }

    def _open_target(self) -> None:
        self._patience[Timer.TARGET].opens()
        self._do(OpenTarget())

    def _open_source(self) -> None:
        self._timers.drop(Timer.SOURCE)
        self._patience[Timer.SOURCE].opens()
        self._has_source = True
        self._settled, self.window = 0, min(FIRST_WINDOW, self._settings.prefetch)
        self._do(OpenSource(self.window))

    def _close_source(self) -> None:
        """Everything that is not acknowledged goes back to its queue."""
        self._acknowledge()
        self._forget()
        self._do(CloseSource())

    def _lose(self) -> None:
        """The connection to the target is no more, and what was known of it."""
        self.ledger.lose()
        self._rejects.acquit()  # one may have been set aside
        self._timers.drop(Timer.CONFIRM, Timer.RETRY, Timer.BLOCKED, Timer.ROOM)
        self.reasons.blocked, self._congested = "", False

    def _forget(self) -> None:
        """The connection to the source is no more, and nothing of it may be acknowledged."""
        self._has_source = False
        self.ledger.forget()
        self._stays.forget()
        self._rejects.forget()
        self._timers.drop(Timer.ACKNOWLEDGE, Timer.RETRY, Timer.PARK, Timer.WATCH, Timer.STAY)
        self._returned = 0
        self.reasons.unparked = ""

    def _resume(self) -> None:
        self._timers.worked(Timer.RETRY)
        self._send_waiting()

    def _probe(self) -> None:
        self._probes = 1
        self._send(1)

    def _accept(self) -> None:
        """Send twice as many, until nothing waits; what was under way before tells nothing."""
        if self.ledger.is_under_way or Timer.RETRY in self._timers:
            return
        self._timers.worked(Timer.RETRY)
        if self.ledger.has_waiting:
            self._probes *= 2
            self._send(1 if self._rejects.is_careful else self._probes)
        else:
            self._held_since = None
            self._happen_within(Happening.ACCEPTED)

    def _room_later(self) -> None:
        if not self.reasons.blocked:  # else it tells when it is not
            self._back_off(Timer.ROOM)

    def _connect_later(self, end: Timer) -> None:
        """Always the last step: it may be that the end is not connected again."""
        if self._may_connect(end):
            self._back_off(end)

    def _may_connect(self, end: Timer) -> bool:
        """Always the last step, too."""
        why = self._patience[end].failed()
        if why:
            self._happen_within(
                Happening.GIVE_UP, self.reasons.fail(f"{self.reasons.last_error}; {why}")
            )
        return not why

    def _give_up(self) -> None:
        self._timers.clear()
        for patience in self._patience.values():
            patience.begin()

    def _stall(self) -> None:
        timeout = self._settings.confirm_timeout
        why = self.reasons.fail(f"target: no confirm within {timeout:g} s")
        self.reasons.enter(self.state, self.state, why)

    def _drain(self) -> None:
        """What was refused is tried again at once: there is not much time."""
        self._timers.set(Timer.DRAIN, self._now + self._settings.drain_time)
        self._timers.drop(Timer.RETRY)
        if not self.ledger.is_under_way:
            self._probe()

    def _finish(self) -> None:
        self._timers.clear()
        self._do(Finished())

    # Its parts

    def _end_round(self) -> None:
        """All that came is settled, and what was to go back has."""
        rest = self._stays.end_round(self.forwarded)
        if self._can_rest:
            self._timers.set(Timer.STAY, self._now + rest)
        elif rest and self.state is State.RUNNING:
            self._happen_within(Happening.REST, STAYING)
            self._stays.is_away = True
            self._timers.set(Timer.SOURCE, self._now + rest)
        else:
            self._stays.end_rest()
            self._acknowledge()
        self._tell_of_stays()

    def _end_rest(self) -> None:
        if self._stays.end_rest():
            self._silent_since = self._now
            self._look_for_stays()
            if self.window < RATE:
                self._grow()
            self._do(Widen(self.window))
        self._tell_of_stays()

    def _look_for_stays(self) -> None:
        if self._stays.is_holding:
            self._timers.set(Timer.STAY, self._now + SHORTEST)

    def _tell_of_stays(self) -> None:
        self.reasons.staying = STAYING + self._settings.hint if self._stays.is_holding else ""

    def _leave(self) -> None:
        """The target was blocked for too long."""
        if not self.reasons.blocked:
            return
        why = f"blocked for {self._settings.blocked_time:g} s: {self.reasons.blocked}"
        self._do(CloseTarget(has_failed=True))
        self._happen_within(Happening.TARGET_LOST, self.reasons.fail(f"target: {why}"))

    def _let_go(self) -> None:
        """The target has taken nothing for `hold_time`."""
        if self._is_patient and Timer.ROOM in self._timers.failing:
            self._held_since = self._now
            return
        why = self.reason
        if self.state is not State.HOLDING:
            why = f"{why}; so for {self._settings.hold_time:g} s, what was in flight is given back"
        self._happen_within(Happening.HOLD_OVER, why)

    def _watch(self) -> None:
        self._timers.set(Timer.WATCH, self._now + self._settings.watch_time)
        if self._is_idle(self._now):
            self._do(AskSource())
        oldest, may_wait = self.ledger.oldest(), self._congested or self._is_patient
        if oldest is not None and self._now - oldest >= LONGEST_IN_FLIGHT and not may_wait:
            why = f"a message is in flight for {LONGEST_IN_FLIGHT:g} s, so all are given back"
            self._happen_within(Happening.HOLD_OVER, self.reasons.fail(why))

    def _is_idle(self, now: float) -> bool:
        """Whether the source could have delivered for long, and did not."""
        waited = now - self._silent_since >= self._settings.watch_time
        may_deliver = self.wants_reading and not self._stays.is_resting
        return waited and not self.ledger and may_deliver and self.state is State.RUNNING

    def _park_aside(self) -> None:
        self._park(self._rejects.aside())

    def _send_on(self) -> None:
        """The target has answered, and refused nothing."""
        if self.state is State.RUNNING:
            self._send_waiting()
        elif self.state in (State.RETRYING, *ENDING):
            self._accept()

    def _send_waiting(self) -> None:
        if not self.ledger.has_waiting:
            return
        # A source whose window grows may deliver that beside the former one.
        room = self._settings.prefetch - self.ledger.exposed
        if not self._rejects.is_careful and room > 0:
            if (free := self._most_owed - self.ledger.owed) > 0:
                self._send(self._paced(min(room, free)))
        elif not self.ledger.is_under_way:
            self._send(1)

    def _paced(self, room: int) -> int:
        """How many the rate lets be sent now, of so many."""
        if self._pace is None:
            return room
        allowed = 0 if Timer.PACE in self._timers else self._pace.allows(self._now)
        return min(room, self.ledger.waiting_again + allowed)

    def _go_on(self) -> None:
        """More may be sent."""
        if self.state is State.RUNNING:
            self._send_waiting()

    def _count(self, settled: int) -> None:
        self._timers.worked(Timer.TARGET)
        if self.state is State.RUNNING:
            self._timers.worked(Timer.ROOM)
            self._held_since = None
        parked = min(settled, self._returned)  # which of them these are is all the same in sum
        self._returned -= parked
        self.parked += parked
        self.forwarded += settled - parked
        self._settled += settled
        self._rejects.acquit()
        if self.state is State.RUNNING and not self._stays.is_resting and self._grow():
            self._do(Widen(self.window))

    def _when_settled(self) -> list[Action]:
        """What is to be done, and what follows where nothing is in flight."""
        if self._stays.is_resting and not self.ledger and Timer.STAY not in self._timers:
            self._end_round()
        if self.state in ENDING and not self.ledger:
            self._happen_within(Happening.SETTLED)
        return self._take_actions()
