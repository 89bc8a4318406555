"""The machine of one link: what happened goes in, what to do comes out; no I/O, no clock.

    WAITING_TARGET ──> WAITING_SOURCE ──> RUNNING <──> RETRYING    stop: DRAINING ──> STOPPED
          ^                  ^  ^           │  ^           │
          └── hold is over ──┼──┼ HOLDING <─┘  │           │       drain: PAUSING ──> PAUSED
                             │  └ source lost ─┘           │       pause: PAUSED ──> WAITING_TARGET
                             └── WAITING_ROOM <── hold is over     gives up: GIVEN_UP

Rules
* The target is connected first: nothing is taken from a source that could not be sent.
* Messages are settled at the source only when the target confirmed them. When the source is lost
  they are forgotten (it delivers them again).
* While the target takes nothing, since it is lost, refuses or is blocked, they are held for
  ``hold_time`` and sent again, then given back; nothing at all is in flight for longer than
  `LONGEST_IN_FLIGHT`. So no broker loses its patience with us (RabbitMQ's consumer_timeout). One
  that is open is tried again with one message, after a back-off or when it is not blocked any more.
* Tags are those of one opening of the source: what it delivered is forgotten when it is closed or
  lost, also while it was being opened; what comes from it after that is not taken.
* After each attach the window begins with `FIRST_WINDOW` and doubles with every window that was
  settled in full: a bridge that crashes again and again costs few delivery counts.
* What the target refuses is sent again after a back-off, one first, then two, four ...; meanwhile
  nothing is read. A drain does so too, and begins at once.
* A back-off begins anew when the end worked, not when it was opened: a target that closes over the
  first message is not opened in a hot loop.
* To a target that confirms a burst at its end a part of the window (`TARGET_SHARE`) is sent at a
  time, so that it works on one while the source brings the next.
* Acknowledgements go out for a part of the window (`ACK_SHARE`), after `ACK_DELAY`, or when
  nothing is left.
* An end that could not be connected as often as its URI says, or is not to be connected again, ends
  it all until somebody lets the link go on (`patience`).
* Nobody waits for ever: a confirm has ``confirm_timeout``, a drain ``drain_time``; a source that
  has messages and delivers none for ``watch_time`` is opened anew.
* A pause gives back what is in flight and closes both ends, so there is nothing left to lose; a
  drain settles it first.
* A state that does not list a happening in `TABLE` does not care for it.
* Every state but RUNNING has its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from understudyd.bridge.counts import messages
from understudyd.bridge.parts import ENDING
from understudyd.bridge.settings import TARGET_SHARE
from understudyd.bridge.steps import Steps
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.reader import Confirm, Returned
from understudyd.bridge.words import (
    Action,
    Batch,
    CloseSource,
    CloseTarget,
    Happening,
    ParkAtSource,
    Rest,
    State,
    Timer,
)

__all__ = ["Link"]


class Link(Steps):
    """One source, one target. Every method that is told something returns what to do."""

    def start(self, now: float) -> list[Action]:
        return self._happen(Happening.START, now)

    def stop(self, now: float) -> list[Action]:
        self._now = now
        self._happen_within(Happening.STOP)
        return self._when_settled()

    def pause(self, now: float, reason: str = "", *, at_once: bool = True) -> list[Action]:
        """Rest, at once or when what is in flight is settled (`drain_time` at most); one that was
        not started rests from the beginning."""
        self._now, self.reasons.asked = now, reason
        self._happen_within(Happening.PAUSE if at_once else Happening.DRAIN)
        return self._when_settled()

    def resume(self, now: float) -> list[Action]:
        """Go on after a pause."""
        return self._happen(Happening.RESUME, now)

    def move(self, now: float) -> list[Action]:
        """Settle what is in flight (`drain_time` at most), then open both ends anew: a broker that
        is preferred to the one in use is back. One that does not run does so anyway, or will."""
        self._now = now
        self._happen_within(Happening.MOVE)
        return self._when_settled()

    def tick(self, now: float) -> list[Action]:
        """Whatever is due."""
        self._now = now
        for timer in self._timers.take_due(now):
            if isinstance(timer.value, Happening):
                self._happen_within(timer.value)
            else:
                self._steps[timer.value]()
        return self._take_actions()

    def target_up(self, now: float, *, confirms_when_idle: bool = False) -> list[Action]:
        """``confirms_when_idle``: see `dialects`."""
        window = self._settings.prefetch
        self._most_owed = max(1, window // TARGET_SHARE) if confirms_when_idle else window
        self._patience[Timer.TARGET].connected()
        return self._happen(Happening.TARGET_UP, now)

    def target_lost(self, reason: str, now: float, closed: Closed | None = None) -> list[Action]:
        """``closed`` is what the broker said, where it said something."""
        if self.state not in ENDING:  # it gives back what is in flight, and that comes again
            rejects = self._rejects
            self._park(rejects.doubt(reason) if closed is None else rejects.judge(closed))
        return self._happen(Happening.TARGET_LOST, now, self.reasons.fail(f"target: {reason}"))

    def source_up(self, now: float, *, is_patient: bool = False) -> list[Action]:
        """``is_patient``: its broker waits for ever, see `dialects`."""
        self._is_patient = is_patient
        if not self._has_source:
            return []  # it was lost before its opening had ended
        self._patience[Timer.SOURCE].connected()
        self._silent_since = now
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
        return self.source_lost(f"{messages(ready)} ready, none came for {waited:g} s", now)

    def blocked(self, reason: str, now: float) -> None:
        """The target reads nothing for now (connection.blocked)."""
        self.reasons.blocked = reason
        self._now = now
        self._timers.drop(Timer.CONFIRM, Timer.ROOM)
        if self._settings.blocked_time is not None:
            self._timers.start(Timer.BLOCKED, now + self._settings.blocked_time)
        self._mind_hold()

    def unblocked(self, now: float) -> None:
        self.reasons.blocked = ""
        self._timers.drop(Timer.BLOCKED)
        self._now = self._silent_since = now
        self._expect_confirm()
        self._mind_hold()
        if self.state is State.WAITING_ROOM:
            self._timers.set(Timer.ROOM, now)

    def congested(self, is_congested: bool, now: float) -> None:
        """Whether what was sent piles up on our side; then no confirm is due yet."""
        self._congested = is_congested
        self._now = now
        self._expect_confirm()

    def delivered(self, batch: Batch, now: float, last: int = 0) -> list[Action]:
        """A batch from the source; what was left out of it, up to the tag ``last``, is settled."""
        tags, parcels, aside, stays, parked = batch
        self._now = now
        if not self.takes_deliveries:
            return []
        self._timers.worked(Timer.SOURCE)
        self._silent_since = now
        self.ledger.take(tags, parcels, now)
        self._returned += parked
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
        if settled:
            self._count(settled)
        self._returned += len(came_back)
        if refused:
            self.retried += len(refused)
            why = self.reasons.fail(f"target: refused {messages(len(refused))}")
            self._happen_within(Happening.REFUSED, why)
        else:
            self._send_on()
        self._acknowledge_in_time()
        return self._when_settled()

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
        return self._when_settled()

    def park_failed(self, reason: str, now: float) -> list[Action]:
        self._now = now
        if not self.ledger.has_aside:
            return []  # it was forgotten meanwhile, and comes again
        self.reasons.unparked = self.reasons.fail(f"parking at the source: {reason}")
        self._back_off(Timer.PARK)
        return self._take_actions()
