"""The machine of one link: what happened goes in, what to do comes out; no I/O, no clock.

    WAITING_TARGET ──> WAITING_SOURCE ──> RUNNING <──> RETRYING    stop: DRAINING ──> STOPPED
          ^                  ^              │  ^
          └── hold is over ──┼── HOLDING <──┘  │         drain: PAUSING ──> PAUSED
                             └── source lost ──┘         pause: PAUSED ──> WAITING_TARGET

Rules
* The target is connected first: nothing is taken from a source that could not be sent.
* Messages are settled at the source only when the target confirmed them. When the source is lost
  they are forgotten (it delivers them again); when the target is lost they are held for
  ``hold_time`` and sent again, then given back.
* After each attach the window begins with `FIRST_WINDOW` and doubles with every window that was
  settled in full: a bridge that crashes again and again costs few delivery counts.
* What the target refuses is sent again after a back-off, one first, then two, four ...; meanwhile
  nothing is read.
* A back-off begins anew when the end worked, not when it was opened: a target that closes over the
  first message is not opened in a hot loop.
* Acknowledgements go out for a part of the window (`ACK_SHARE`), after `ACK_DELAY`, or when
  nothing is left.
* Nobody waits for ever: a confirm has ``confirm_timeout``, a drain ``drain_time``; a source that
  has messages and delivers none for ``watch_time`` is opened anew.
* A pause gives back what is in flight and closes both ends, so there is nothing left to lose; a
  drain settles it first.
* A state that does not list a happening in `TABLE` does not care for it.
* Every state but RUNNING has its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partialmethod
from random import Random

from understudyd.bridge.ledger import Ledger, Parcel
from understudyd.bridge.pace import Pace
from understudyd.bridge.parking import Parking
from understudyd.bridge.reasons import Reasons
from understudyd.bridge.rejects import Rejects
from understudyd.bridge.settings import ACK_DELAY, ACK_SHARE, FIRST_WINDOW, LinkSettings
from understudyd.bridge.stays import RATE, SHORTEST, Stays
from understudyd.bridge.timers import Timers
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.reader import Confirm, Returned
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
    Rest,
    Send,
    State,
    Timer,
    Widen,
)

__all__ = ["Link"]

STAYING = "messages that may not be forwarded stay in the queue for its broker's own consumers"


class Link:
    """One source, one target. Every method that is told something returns what to do."""

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
        self.window = FIRST_WINDOW
        self._settings = settings
        self._pace = pace
        self._can_rest = can_rest
        self._rejects = Rejects(self.ledger, parking)
        self._stays = Stays()
        self._timers = Timers(settings.backoff, rng)
        self._actions: list[Action] = []
        self._now = 0.0
        self.reasons = Reasons()
        self._congested = False
        self._settled = 0  # since the window was opened
        self._delivered_at = 0.0
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
        return self.reasons.of(self.state, is_careful=self._rejects.suspects > 0)

    @property
    def wants_reading(self) -> bool:
        """Whether the source is to be read."""
        return (
            self.state in (State.RUNNING, State.WAITING_SOURCE)
            and not self.reasons.blocked
            and not self._congested
            and not self._rejects.suspects
            and Timer.PACE not in self._timers
            and self.ledger.size < self._settings.size
        )

    @property
    def due(self) -> float | None:
        """When ``tick()`` wants to be called; None: not before something happens."""
        return self._timers.due

    # What is told to it

    def start(self, now: float) -> list[Action]:
        return self._happen(Happening.START, now)

    def stop(self, now: float) -> list[Action]:
        self._now = now
        self._happen_within(Happening.STOP)
        return self._drained()

    def pause(self, now: float, reason: str = "", *, at_once: bool = True) -> list[Action]:
        """Rest, at once or when what is in flight is settled (`drain_time` at most); one that was
        not started rests from the beginning."""
        self._now, self.reasons.asked = now, reason
        self._happen_within(Happening.PAUSE if at_once else Happening.DRAIN)
        return self._drained()

    def resume(self, now: float) -> list[Action]:
        """Go on after a pause."""
        return self._happen(Happening.RESUME, now)

    def tick(self, now: float) -> list[Action]:
        """Whatever is due."""
        self._now = now
        for timer in self._timers.take_due(now):
            if isinstance(timer.value, Happening):
                self._happen_within(timer.value)
            else:
                getattr(self, f"_{timer.value}")()
        return self._take_actions()

    def target_up(self, now: float) -> list[Action]:
        self.reasons.blocked, self._congested = "", False
        return self._happen(Happening.TARGET_UP, now)

    def target_lost(self, reason: str, now: float, closed: Closed | None = None) -> list[Action]:
        """``closed`` is what the broker said, where it said something."""
        if closed is not None:
            self._park(self._rejects.judge(closed))
        return self._happen(Happening.TARGET_LOST, now, self.reasons.fail(f"target: {reason}"))

    def source_up(self, now: float) -> list[Action]:
        self._delivered_at = now
        self._timers.set(Timer.WATCH, now + self._settings.watch_time)
        self._stays.is_away, self._now = False, now
        self._look_for_stays()
        return self._happen(Happening.SOURCE_UP, now)

    def source_lost(self, reason: str, now: float) -> list[Action]:
        why = self.reasons.fail(f"source: {reason}")
        self._stays.is_away = False
        return self._happen(Happening.SOURCE_LOST, now, "" if self.state is State.HOLDING else why)

    def source_has(self, ready: int, now: float) -> list[Action]:
        """The answer to `AskSource`; -1 where the broker cannot tell."""
        if ready <= 0 or not self._is_idle(now):
            return []
        self._do(CloseSource())
        waited = self._settings.watch_time
        return self.source_lost(f"{ready} messages are ready, none came for {waited:g} s", now)

    def blocked(self, reason: str) -> None:
        """The target reads nothing for now (connection.blocked)."""
        self.reasons.blocked = reason
        self._timers.drop(Timer.CONFIRM)

    def unblocked(self, now: float) -> None:
        self.reasons.blocked = ""
        self._now = now
        self._expect_confirm()

    def congested(self, is_congested: bool, now: float) -> None:
        """Whether what was sent piles up on our side; then no confirm is due yet."""
        self._congested = is_congested
        self._now = now
        self._expect_confirm()

    def delivered(
        self,
        tags: list[int],
        parcels: list[Parcel],
        now: float,
        last: int = 0,
        aside: Sequence[int] = (),
        stays: Sequence[int] = (),
    ) -> list[Action]:
        """A batch from the source; what was left out of it, up to the tag ``last``, is settled.
        The parcels of the tags ``aside`` are for the source: its parking queue, or where they
        came from (``stays``)."""
        self._now = now
        if self.state in (State.DRAINING, State.PAUSING, State.PAUSED, State.STOPPED):
            return []  # it was not taken, so closing gives it back
        self._timers.worked(Timer.SOURCE)
        self._delivered_at = now
        self.ledger.take(tags, parcels, now)
        if self._pace is not None and (wait := self._pace.take(len(tags), now)):
            self._timers.set(Timer.PACE, now + wait)
        if stays:
            self._timers.drop(Timer.STAY)
            if self._stays.came(stays) and self._can_rest:
                self._do(Rest())
        if aside:
            self._park(self._rejects.set_aside({tag: self.ledger.parcel(tag) for tag in aside}))
        if len(tags) == 0 or tags[-1] < last:
            self.ledger.skip(last)
            self._acknowledge_in_time()
        if self.state is State.RUNNING:
            self._send_waiting()
        return self._take_actions()

    def confirmed(self, confirms: Sequence[Confirm], now: float) -> list[Action]:
        """A batch from the target."""
        self._now = now
        settled, refused, came_back = self.ledger.confirm(confirms)
        self._expect_confirm()
        for tag in came_back:
            self._rejects.park(tag)
        self.parked += len(came_back)
        if settled:
            self._count(settled)
        if refused:
            self.retried += len(refused)
            why = self.reasons.fail(f"target: refused {len(refused)} messages")
            self._happen_within(Happening.REFUSED, why)
        elif settled and self.state is State.RETRYING:
            self._accept()
        if came_back and self.state in (State.RUNNING, State.DRAINING, State.PAUSING):
            self._send_waiting()
        self._acknowledge_in_time()
        return self._drained()

    def returned(self, message: Returned, now: float) -> list[Action]:
        """A message that the target could not route; its confirm follows."""
        self._now = now
        if self._rejects.is_accounted_for(message):
            return []
        self._do(CloseTarget())
        where = f"{message.exchange or '-'}/{message.routing_key}"
        return self.target_lost(f"{message.code} {message.text}: {where}", now)

    def park_done(self, action: ParkAtSource, now: float) -> list[Action]:
        self._now = now
        self._timers.worked(Timer.PARK)
        self.reasons.unparked = ""
        if self.ledger.settle(action.tag, action.parcel):
            if self._stays.went_back(action.tag):
                self._settled += 1
            else:
                self.parked += 1
            self._acknowledge_in_time()
        self._park_aside()
        return self._drained()

    def park_failed(self, reason: str, now: float) -> list[Action]:
        self._now = now
        self.reasons.unparked = self.reasons.fail(f"parking at the source: {reason}")
        self._back_off(Timer.PARK)
        return self._take_actions()

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
        self._settled, self.window = 0, min(FIRST_WINDOW, self._settings.prefetch)
        self._do(OpenSource(self.window))

    def _close_source(self) -> None:
        """Everything that is not acknowledged goes back to its queue."""
        self._acknowledge()
        self._forget()
        self._do(CloseSource())

    def _lose(self) -> None:
        self.ledger.lose()
        self._timers.drop(Timer.CONFIRM, Timer.RETRY)

    def _forget(self) -> None:
        self.ledger.forget()
        self._stays.forget()
        self._timers.drop(Timer.ACKNOWLEDGE, Timer.RETRY, Timer.HOLD, Timer.PARK, Timer.WATCH)
        self._timers.drop(Timer.STAY)
        self._rejects.suspects = 0

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
            self._send(self._probes)
        else:
            self._happen_within(Happening.ACCEPTED)

    def _stall(self) -> None:
        timeout = self._settings.confirm_timeout
        why = self.reasons.fail(f"target: no confirm within {timeout:g} s")
        self.reasons.enter(self.state, self.state, why)

    def _drain(self) -> None:
        self._timers.set(Timer.DRAIN, self._now + self._settings.drain_time)
        self._send_waiting()

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
            self._look_for_stays()
            if self.window < RATE:
                self._grow()
            self._do(Widen(self.window))
        self._tell_of_stays()

    def _look_for_stays(self) -> None:
        if self._stays.is_holding:
            self._timers.set(Timer.STAY, self._now + SHORTEST)

    def _tell_of_stays(self) -> None:
        self.reasons.staying = STAYING if self._stays.is_holding else ""

    def _go_on(self) -> None:
        """Read again; the timer that kept from it is over."""

    def _watch(self) -> None:
        self._timers.set(Timer.WATCH, self._now + self._settings.watch_time)
        if self._is_idle(self._now):
            self._do(AskSource())

    def _is_idle(self, now: float) -> bool:
        """Whether the source could have delivered for long, and did not."""
        waited = now - self._delivered_at >= self._settings.watch_time
        return waited and not self.ledger and self.wants_reading and self.state is State.RUNNING

    def _park_aside(self) -> None:
        self._park(self._rejects.aside())

    def _park(self, parking: ParkAtSource | None) -> None:
        if parking is not None:
            self._do(parking)

    def _send_waiting(self) -> None:
        if not self._rejects.suspects:
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
        self.forwarded += settled
        self._settled += settled
        if self._rejects.suspects and self.state is State.RUNNING:
            self._rejects.acquit(settled)
            self._send_waiting()
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

    def _drained(self) -> list[Action]:
        if self._stays.is_resting and not self.ledger and Timer.STAY not in self._timers:
            self._end_round()
        if self.state in (State.DRAINING, State.PAUSING) and not self.ledger:
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
    _target_later = partialmethod(_back_off, Timer.TARGET)
    _source_later = partialmethod(_back_off, Timer.SOURCE)
    _retry_later = partialmethod(_back_off, Timer.RETRY)
