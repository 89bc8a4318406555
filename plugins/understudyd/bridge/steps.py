"""What a link does when its table asks for it, and what it does besides; no I/O, no clock.

`link.Link` is told what happens, and stands on this. Every step leaves what is to be done in
``_actions``.
"""

from __future__ import annotations

from functools import partialmethod
from random import Random

from understudyd.bridge.ledger import Ledger
from understudyd.bridge.pace import Pace
from understudyd.bridge.parking import Parking
from understudyd.bridge.reasons import Reasons
from understudyd.bridge.rejects import Rejects
from understudyd.bridge.settings import ACK_DELAY, ACK_SHARE, FIRST_WINDOW, LinkSettings
from understudyd.bridge.stays import RATE, SHORTEST, Stays
from understudyd.bridge.timers import Timers
from understudyd.bridge.words import (
    TABLE,
    Acknowledge,
    Action,
    AskSource,
    CloseSource,
    CloseTarget,
    Finished,
    Happening,
    OpenSource,
    OpenTarget,
    ParkAtSource,
    Send,
    State,
    Timer,
    Widen,
)

__all__ = ["ENDING", "Steps"]

ENDING = (State.DRAINING, State.PAUSING, State.MOVING)  # nothing more is taken

STAYING = "messages that may not be forwarded stay in the queue for its broker's own consumers"


class Steps:
    """The state of a link, and its parts."""

    def __init__(
        self,
        settings: LinkSettings,
        parking: Parking,
        rng: Random,
        pace: Pace | None = None,
        *,
        can_rest: bool = True,
    ) -> None:
        """``pace`` is shared by those that have one rate; ``can_rest``: the source knows `Rest`."""
        self.state = State.IDLE
        self.ledger = Ledger()
        self.forwarded = self.parked = self.retried = 0
        self.dropped = self.expired = 0
        """What was settled without being sent; counted where it was left out, see `forward`."""
        self._returned = 0  # on their way to the target's parking queue
        self.window = FIRST_WINDOW
        self._settings = settings
        self._pace = pace
        self._can_rest = can_rest
        self._rejects = Rejects(self.ledger, parking)
        self._stays = Stays()
        own = {Timer.SOURCE: settings.source_backoff, Timer.TARGET: settings.target_backoff}
        told = {timer: backoff for timer, backoff in own.items() if backoff is not None}
        self._timers = Timers(settings.backoff, rng, told)
        self._actions: list[Action] = []
        self._now = 0.0
        self.reasons = Reasons()
        self._congested = False
        self._settled = 0  # since the window was opened
        self._has_source = False  # one is open or being opened, and was not lost meanwhile
        self._silent_since = 0.0  # the source could have delivered, and did not
        self._probes = 1  # so many of those that were refused are sent at a time

    @property
    def shown(self) -> str:
        """The state as a status shows it."""
        if self.reasons.blocked and self.state in (State.RUNNING, State.RETRYING):
            return "blocked"
        is_at_it = self.state is State.RUNNING or self._stays.is_away
        is_holding = self._stays.is_holding and is_at_it
        return State.HOLDING.value if is_holding else self.state.value

    @property
    def reason(self) -> str:
        """Why it is in this state; of one that runs, what hinders it."""
        return self.reasons.of(self.state, is_careful=self._rejects.is_careful)

    @property
    def takes_deliveries(self) -> bool:
        """Whether a batch is taken; what is not taken is given back when the source is closed."""
        return self._has_source and self.state not in ENDING

    @property
    def wants_reading(self) -> bool:
        """Whether the source is to be read."""
        return (
            self.state in (State.RUNNING, State.WAITING_SOURCE)
            and not self.reasons.blocked
            and not self._congested
            and not self._rejects.is_careful
            and Timer.PACE not in self._timers
            and self.ledger.size < self._settings.size
        )

    @property
    def due(self) -> float | None:
        """When ``tick()`` wants to be called; None: not before something happens."""
        return self._timers.due

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
            getattr(self, f"_{step}")()

    def _open_source(self) -> None:
        self._timers.drop(Timer.SOURCE)
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
        self._timers.drop(Timer.CONFIRM, Timer.RETRY, Timer.BLOCKED)
        self.reasons.blocked, self._congested = "", False

    def _forget(self) -> None:
        """The connection to the source is no more, and nothing of it may be acknowledged."""
        self._has_source = False
        self.ledger.forget()
        self._stays.forget()
        self._rejects.forget()
        self._timers.drop(Timer.ACKNOWLEDGE, Timer.RETRY, Timer.HOLD, Timer.PARK, Timer.WATCH)
        self._timers.drop(Timer.STAY)
        self._returned = 0
        self.reasons.unparked = ""

    def _hold(self) -> None:
        self._timers.start(Timer.HOLD, self._now + self._settings.hold_time)

    def _resume(self) -> None:
        self._timers.drop(Timer.HOLD)
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
            self._happen_within(Happening.ACCEPTED)

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

    def _rest(self) -> None:
        self._timers.clear()

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
        self._abandon_target()
        self._happen_within(Happening.TARGET_LOST, self.reasons.fail(f"target: {why}"))

    def _go_on(self) -> None:
        """Read again; the timer that kept from it is over."""

    def _watch(self) -> None:
        self._timers.set(Timer.WATCH, self._now + self._settings.watch_time)
        if self._is_idle(self._now):
            self._do(AskSource())

    def _is_idle(self, now: float) -> bool:
        """Whether the source could have delivered for long, and did not."""
        waited = now - self._silent_since >= self._settings.watch_time
        may_deliver = self.wants_reading and not self._stays.is_resting
        return waited and not self.ledger and may_deliver and self.state is State.RUNNING

    def _park_aside(self) -> None:
        self._park(self._rejects.aside())

    def _park(self, parking: ParkAtSource | None) -> None:
        if parking is not None:
            self._do(parking)

    def _send_on(self) -> None:
        """The target has answered, and refused nothing."""
        if self.state is State.RUNNING:
            self._send_waiting()
        elif self.state in (State.RETRYING, *ENDING):
            self._accept()

    def _send_waiting(self) -> None:
        if not self.ledger.has_waiting:
            return
        if not self._rejects.is_careful:
            self._send(None)
        elif not self.ledger.is_under_way:
            self._send(1)

    def _send(self, limit: int | None) -> None:
        if pieces := self.ledger.send(limit):
            self._do(Send(pieces))
            if Timer.CONFIRM not in self._timers:
                self._expect_confirm()

    def _expect_confirm(self) -> None:
        if self.ledger.is_under_way and not self.reasons.blocked and not self._congested:
            self._timers.set(Timer.CONFIRM, self._now + self._settings.confirm_timeout)
        else:
            self._timers.drop(Timer.CONFIRM)

    def _count(self, settled: int) -> None:
        self._timers.worked(Timer.TARGET)
        parked = min(settled, self._returned)  # which of them these are is all the same in sum
        self._returned -= parked
        self.parked += parked
        self.forwarded += settled - parked
        self._settled += settled
        self._rejects.acquit()
        if self.state is State.RUNNING and not self._stays.is_resting and self._grow():
            self._do(Widen(self.window))

    def _grow(self) -> bool:
        """Double the window when it was settled in full."""
        window = self._settings.prefetch
        is_due = self._settled >= self.window and self.window < window
        if is_due:
            self.window, self._settled = min(2 * self.window, window), 0
        return is_due

    def _acknowledge_in_time(self) -> None:
        count = self.ledger.acknowledgeable
        if not count or (self._stays.is_resting and not self._can_rest):
            return
        if not self.ledger or count * ACK_SHARE >= self.window:
            self._acknowledge()
        else:
            self._timers.start(Timer.ACKNOWLEDGE, self._now + ACK_DELAY)

    def _acknowledge(self) -> None:
        self._timers.drop(Timer.ACKNOWLEDGE)
        if (tag := self.ledger.acknowledge()) is not None:
            self._do(Acknowledge(tag))

    def _when_settled(self) -> list[Action]:
        """What is to be done, and what follows where nothing is in flight."""
        if self._stays.is_resting and not self.ledger and Timer.STAY not in self._timers:
            self._end_round()
        if self.state in ENDING and not self.ledger:
            self._happen_within(Happening.SETTLED)
        return self._take_actions()

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _back_off(self, timer: Timer) -> None:
        self._timers.back_off(timer, self._now)

    def _take_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    _open_target = partialmethod(_do, OpenTarget())
    _close_target = partialmethod(_do, CloseTarget())
    _abandon_target = partialmethod(_do, CloseTarget(has_failed=True))
    _target_later = partialmethod(_back_off, Timer.TARGET)
    _source_later = partialmethod(_back_off, Timer.SOURCE)
    _retry_later = partialmethod(_back_off, Timer.RETRY)
