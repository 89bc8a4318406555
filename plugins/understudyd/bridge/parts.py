"""The state of a link, and what it is made of; no I/O, no clock.

`steps.Steps` stands on this. What is to be done is left in ``_actions``.
"""

from __future__ import annotations

from random import Random

from understudyd.bridge.ledger import Ledger
from understudyd.bridge.pace import Pace
from understudyd.bridge.parking import Parking
from understudyd.bridge.patience import Patience
from understudyd.bridge.reasons import Reasons
from understudyd.bridge.rejects import Rejects
from understudyd.bridge.settings import (
    ACK_DELAY,
    ACK_SHARE,
    FIRST_WINDOW,
    ROOM_BACKOFF,
    LinkSettings,
)
from understudyd.bridge.stays import Stays
from understudyd.bridge.timers import Timers
from understudyd.bridge.words import (
    Acknowledge,
    Action,
    ParkAtSource,
    Send,
    State,
    Timer,
)

__all__ = ["ENDING", "Parts"]

ENDING = (State.DRAINING, State.PAUSING, State.MOVING)  # nothing more is taken


class Parts:
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
        self._most_owed = settings.prefetch  # confirms by the target
        self._settings = settings
        self._pace = pace
        self._can_rest = can_rest
        self._rejects = Rejects(self.ledger, parking)
        self._stays = Stays()
        own = {Timer.SOURCE: settings.source_backoff, Timer.TARGET: settings.target_backoff}
        told = {timer: backoff for timer, backoff in own.items() if backoff is not None}
        self._timers = Timers(settings.backoff, rng, {**told, Timer.ROOM: ROOM_BACKOFF})
        self._patience = {
            Timer.SOURCE: Patience(settings.source_limits),
            Timer.TARGET: Patience(settings.target_limits),
        }
        self._actions: list[Action] = []
        self._now = 0.0
        self.reasons = Reasons()
        self._congested = False
        self._settled = 0  # since the window was opened
        self._has_source = False  # one is open or being opened, and was not lost meanwhile
        self._silent_since = 0.0  # the source could have delivered, and did not
        self._held_since: float | None = None  # what is in flight; the target took nothing since
        self._is_patient = False  # the broker of the source
        self._probes = 1  # so many of those that were refused are sent at a time

    @property
    def shown(self) -> str:
        """The state as a status shows it."""
        if self.reasons.is_blocked_in(self.state):
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
            and self.ledger.size < self._settings.size
        )

    @property
    def is_paced(self) -> bool:
        """Whether nothing is to be confirmed since the rate lets nothing be sent."""
        return Timer.PACE in self._timers and not self.ledger.is_under_way

    @property
    def due(self) -> float | None:
        """When ``tick()`` wants to be called; None: not before something happens."""
        return self._timers.due

    def _mind_hold(self) -> None:
        """What is in flight is held so long, counted from when the target took something last."""
        is_blocked = self.state is State.RUNNING and bool(self.reasons.blocked)
        is_held = is_blocked or self.state in (State.RETRYING, State.HOLDING)
        if is_held and self._has_source:
            if self._held_since is None:
                self._held_since = self._now
            self._timers.set(Timer.HOLD, self._held_since + self._settings.hold_time)
            return
        self._timers.drop(Timer.HOLD)
        if not self.ledger:
            self._held_since = None

    def _park(self, parking: ParkAtSource | None) -> None:
        if parking is not None:
            self._do(parking)

    def _send(self, limit: int | None) -> None:
        if pieces := self.ledger.send(limit):
            self._do(Send(pieces))
            if self._pace is not None and (wait := self._pace.take(self.ledger.fresh, self._now)):
                self._timers.set(Timer.PACE, self._now + wait)
            if Timer.CONFIRM not in self._timers:
                self._expect_confirm()

    def _expect_confirm(self) -> None:
        if self.ledger.is_under_way and not self.reasons.blocked and not self._congested:
            self._timers.set(Timer.CONFIRM, self._now + self._settings.confirm_timeout)
        else:
            self._timers.drop(Timer.CONFIRM)

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

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _back_off(self, timer: Timer) -> None:
        self._timers.back_off(timer, self._now)

    def _take_actions(self) -> list[Action]:
        self._mind_hold()
        actions, self._actions = self._actions, []
        return actions
