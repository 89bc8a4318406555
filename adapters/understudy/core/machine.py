"""The failover state machine: what happened goes in, what to do comes out.

Rules
* Pure. The shell gives the delay's random number generator at construction, feeds events, and does
  the actions in order. It never decides which endpoint comes next, nor how long to wait.
* One *pass* tries every endpoint of the list once, with no pause between them. Only after a whole
  pass has failed comes one delay (ActiveMQ 1.4). Success resets delay and counters.
* An *epoch* is the time during which one endpoint is the current one; it is a number that only
  rises. Every connection belongs to the epoch it was dialed in, and a loss that is reported for an
  earlier epoch changes nothing: all connections of a process agree on one broker, and ten of them
  dying together are one loss.
* While an epoch lasts, further connections are dialed to its endpoint; one that fails ends the
  epoch, just as if one of its connections had been lost. But a *refusal* (a limit of connections,
  no file descriptor left) by an endpoint that serves other connections of ours concerns only who
  asked: it is tried again after the delays of an outage, each counting as a pass, and after the
  passes that the options allow he gets the error. Nobody else's connection is touched: the next
  broker may have the same limit, and all would move to and fro.
* A new ``Wanted`` cuts a delay that has grown long down to `PATIENCE_MS`: whoever sends now
  should not pay for how long the outage has already lasted. ``initialReconnectDelay`` stays the
  least.
* The endpoint that was lost last goes to the end of the next pass, unless nothing but time was
  wrong with it (``Prefer``: we left it on purpose).
* A spare (a ready connection to another endpoint than the lost one) is tried first and without
  the delay; one that gets ready during a delay ends it, and so does a new address.
* Where nothing is known to dial, a pass lasts as long as one endpoint may take (connectTimeout):
  discovery may be about to find some, and the first address ends the wait.
* A new list moves nobody from a connection that works, unless it comes with the wish to rebalance
  (ActiveMQ 1.10): then a new pass begins, for whoever is not where its list begins. Whoever is on a
  priority endpoint stays.
* Interrupted comes before any attempt; Resumed comes after success; they always pair up.
* Giving up tells everyone who waits; the next ``Wanted`` begins a new round, because the processes
  that use this live long (with ``reconnect=false`` it does not). After `Closed` each gets an error.

Keep in sync: `TRANSITIONS` names every event that a state reacts to; any other pair is ignored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TypeAlias

from understudy.core.backoff import Backoff
from understudy.core.endpoint import Endpoint
from understudy.core.events import (
    Connected,
    EndpointsChanged,
    GaveUp,
    Interrupted,
    Resumed,
    SlowReconnect,
)
from understudy.core.happenings import (
    Action,
    Closed,
    CutShort,
    Dial,
    Dialed,
    DialFailed,
    Fail,
    Happening,
    Hurry,
    Leave,
    Listed,
    Lost,
    Prefer,
    Spares,
    Tell,
    TimeUp,
    Wait,
    Wanted,
)
from understudy.core.member import CORE_SCHEMES
from understudy.core.options import Options
from understudy.core.order import connect_list, place
from understudy.core.uri import parse_members
from understudy.errors import Attempt

__all__ = ["TRANSITIONS", "Machine", "State"]


PATIENCE_MS = 1000  # longest delay that a new caller has to wait out


class State(Enum):
    IDLE = "idle"  # never asked for a connection
    DIALING = "dialing"  # in the middle of a pass
    WAITING = "waiting"  # a delay before the next pass
    CONNECTED = "connected"
    GAVE_UP = "gave up"
    CLOSED = "closed"


class Machine:
    """One logical connection: a list of endpoints, at most one of them current."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        options: Options,
        rng: random.Random,
    ) -> None:
        self.state = State.IDLE
        self.epoch = 0
        self.current: Endpoint | None = None
        self.passes_failed = 0  # in this outage; while connected: refusals in a row
        self._configured = tuple(endpoints)
        self._learned: tuple[Endpoint, ...] = ()
        self._troubles: tuple[Attempt, ...] = ()  # of who looks for endpoints
        self._spares: tuple[Endpoint, ...] = ()
        self._options = options
        self._rng = rng
        self._backoff = Backoff.of(options)
        self._lost: Endpoint | None = None
        self._queue: list[Endpoint] = []  # what this pass has still to try
        self._causes: dict[Endpoint, str] = {}  # why each endpoint failed last, this outage
        self._ever_connected = False
        self._awaits_list = False  # this pass has nothing to dial, and may still get it

    def __repr__(self) -> str:
        where = f" {self.current}" if self.current else ""
        return f"<Machine {self.state.value}{where} epoch={self.epoch}>"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All known endpoints, configured ones first."""
        return tuple(dict.fromkeys(self._configured + self._learned))

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Each endpoint's last failure in this outage, and that of each source of endpoints."""
        failed = tuple(Attempt(str(e), cause) for e, cause in self._causes.items())
        return failed if self.current else failed + self._troubles

    @property
    def priority(self) -> tuple[Endpoint, ...]:
        """The endpoints to return to; empty unless priorityBackup is on."""
        if not self._options.priority_backup:
            return ()
        if not self._options.priority_uris:
            return self._configured[:1]
        text = ",".join(self._options.priority_uris)
        named = parse_members(text, schemes={e.scheme for e in self.endpoints} | CORE_SCHEMES)
        places = {place(endpoint) for endpoint in named}
        return tuple(e for e in self.endpoints if place(e) in places)

    def receive(self, happening: Happening) -> list[Action]:
        """Take in what happened; return what to do, in order."""
        handler = TRANSITIONS.get((self.state, type(happening)))
        return handler(self, happening) if handler else []

    # --- handlers: one for each kind of arrow in TRANSITIONS -----------------------------------

    def _begin(self, _: Happening) -> list[Action]:
        if self._ever_connected and not self._options.reconnect:
            return [Fail("the connection was lost and reconnect=false", self.attempts)]
        self.passes_failed = 0
        self._causes.clear()
        return self._start_pass()

    def _hurry(self, _: Happening) -> list[Action]:
        return [Hurry(max(PATIENCE_MS, self._options.initial_reconnect_delay))]

    def _hurry_another(self, wanted: Happening) -> list[Action]:
        return self._hurry(wanted) if self.passes_failed else []

    def _start_pass(self, _: Happening | None = None) -> list[Action]:
        return self._start_pass_over(self._connect_list())

    def _start_pass_over(self, endpoints: list[Endpoint]) -> list[Action]:
        self._queue = endpoints
        if not self._queue and not self._awaits_list:
            self._awaits_list = True
            self.state = State.WAITING
            return [Wait(self._options.connect_timeout)]
        self._awaits_list = False
        for spare in reversed(self._spares):
            if spare in self._queue and spare != self._lost:
                self._queue.remove(spare)
                self._queue.insert(0, spare)
        return self._dial_next()

    def _dial_next(self) -> list[Action]:
        if not self._queue:
            return self._pass_failed()
        self.state = State.DIALING
        return [Dial(self._queue[0])]

    def _dial_failed(self, happening: DialFailed) -> list[Action]:
        self._causes.pop(happening.endpoint, None)
        self._causes[happening.endpoint] = happening.cause
        if not self._queue or self._queue[0] != happening.endpoint:
            return []  # the answer to a dial of an earlier pass
        del self._queue[0]
        return self._dial_next()

    def _pass_failed(self) -> list[Action]:
        self.passes_failed += 1
        if self._has_used_up_its_passes():
            return self._give_up(f"gave up after {_count(self.passes_failed, 'pass', 'passes')}")
        self.state = State.WAITING
        return self._try_later()

    def _has_used_up_its_passes(self) -> bool:
        limit = self._options.max_passes(startup=not self._ever_connected)
        return limit is not None and self.passes_failed >= limit

    def _try_later(self) -> list[Action]:
        actions: list[Action] = []
        every = self._options.warn_after_reconnect_attempts
        if every > 0 and self.passes_failed % every == 0:
            known = "; ".join(map(str, self.attempts)) or "no endpoint is known"
            reason = f"{_count(self.passes_failed, 'pass', 'passes')} failed: {known}"
            actions.append(Tell(SlowReconnect(reason=reason)))
        return [*actions, Wait(self._delay())]

    def _give_up(self, reason: str) -> list[Action]:
        self.state = State.GAVE_UP
        return [Tell(GaveUp(reason=reason)), Fail(reason, self.attempts)]

    def _connected(self, happening: Dialed) -> list[Action]:
        self.state = State.CONNECTED
        self.epoch += 1
        self.current = happening.endpoint
        self.passes_failed = 0
        self._lost = None
        self._queue.clear()
        self._causes.clear()
        kind = Resumed if self._ever_connected else Connected
        self._ever_connected = True
        return [Tell(kind(str(happening.endpoint)))]

    def _epoch_lost(self, happening: Lost) -> list[Action]:
        if happening.epoch != self.epoch:
            return []
        return self._leave_current(happening.reason)

    def _another_failed(self, happening: DialFailed) -> list[Action]:
        if happening.endpoint != self.current:
            return []
        self._causes[happening.endpoint] = happening.cause
        if not happening.is_refusal:
            return self._leave_current(f"no further connection could be made: {happening.cause}")
        self.passes_failed += 1
        if self._options.reconnect and not self._has_used_up_its_passes():
            return self._try_later()
        self.passes_failed = 0
        reason = f"no further connection to {self.current}: {happening.cause}"
        return [Fail(reason, self.attempts)]

    def _another_dialed(self, happening: Dialed) -> list[Action]:
        if happening.endpoint == self.current:
            self.passes_failed = 0
            self._causes.clear()
        return []

    def _leave_current(self, reason: str) -> list[Action]:
        assert self.current is not None
        self.passes_failed = 0  # of further connections
        self._lost, self.current = self.current, None
        self._causes[self._lost] = reason
        actions: list[Action] = [Leave(self.epoch, reason)]
        if not self._options.reconnect:
            return actions + self._give_up(f"the connection was lost and reconnect=false: {reason}")
        actions.append(Tell(Interrupted(str(self._lost), reason)))
        if self._has_usable_spare():
            return actions + self._start_pass()
        self.state = State.WAITING
        return [*actions, Wait(self._delay())]

    def _prefer(self, happening: Prefer) -> list[Action]:
        wanted = happening.endpoint
        if wanted == self.current or wanted not in self.endpoints or not self._may_move():
            return []
        actions = self._move(self._connect_list(), happening.reason)
        if wanted in self._queue:
            self._queue.remove(wanted)
        self._queue.insert(0, wanted)
        return [*actions[:2], Dial(wanted)]

    def _spread(self) -> list[Action]:
        endpoints = self._connect_list()
        if endpoints[:1] in ([], [self.current]) or not self._may_move():
            return []
        return self._move(endpoints, "the cluster asked its clients to spread")

    def _may_move(self) -> bool:
        return self._options.reconnect and self.current not in self.priority

    def _move(self, endpoints: list[Endpoint], reason: str) -> list[Action]:
        """Leave a connection that works, for a pass over these."""
        left, self.current = self.current, None
        self.passes_failed = 0
        return [
            Leave(self.epoch, reason),
            Tell(Interrupted(str(left), reason)),
            *self._start_pass_over(endpoints),
        ]

    def _listed(self, happening: Listed) -> list[Action]:
        before = self.endpoints
        self._learned, self._troubles = happening.endpoints, happening.troubles
        if set(self.endpoints) == set(before):
            return []
        for endpoint in self._causes.keys() - set(self.endpoints):
            del self._causes[endpoint]
        actions: list[Action] = [
            Tell(EndpointsChanged(reason=", ".join(map(str, self.endpoints)) or "none"))
        ]
        if self.state is State.WAITING and not set(self.endpoints) <= set(before):
            actions.append(Wait(0))  # a new address is worth a try at once
        if self.state is State.CONNECTED and happening.rebalance:
            actions += self._spread()
        return actions

    def _spares_changed(self, happening: Spares) -> list[Action]:
        self._spares = happening.endpoints
        return [Wait(0)] if self.state is State.WAITING and self._has_usable_spare() else []

    def _begin_again(self, _: Happening) -> list[Action]:
        self.current = None
        self.state = State.WAITING
        return [Leave(self.epoch, "a call was interrupted"), Wait(0)]

    def _close(self, _: Happening) -> list[Action]:
        left = self.epoch if self.state is State.CONNECTED else None
        self.state = State.CLOSED
        self.current = None
        fail = self._refuse()
        return fail if left is None else [Leave(left, "closed"), *fail]

    def _refuse(self, _: Happening | None = None) -> list[Action]:
        return [Fail("closed", self.attempts)]

    # --- helpers ------------------------------------------------------------------------------

    def _connect_list(self) -> list[Endpoint]:
        return list(
            connect_list(
                self._configured,
                self._learned,
                self._lost,
                self._options.randomize,
                self._rng,
                priority=self.priority,
            )
        )

    def _has_usable_spare(self) -> bool:
        return any(spare != self._lost and spare in self.endpoints for spare in self._spares)

    def _delay(self) -> float:
        return self._backoff.delay_ms(
            self.passes_failed, first_connection=not self._ever_connected, rng=self._rng
        )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


Handler: TypeAlias = Callable[..., list[Action]]

_ANYWHERE: dict[type, Handler] = {
    Listed: Machine._listed,
    Spares: Machine._spares_changed,
    Closed: Machine._close,
}

TRANSITIONS: dict[tuple[State, type], Handler] = {
    (State.IDLE, Wanted): Machine._begin,
    (State.DIALING, CutShort): Machine._begin_again,
    (State.WAITING, CutShort): Machine._begin_again,
    (State.CONNECTED, CutShort): Machine._begin_again,
    (State.DIALING, Dialed): Machine._connected,
    (State.DIALING, DialFailed): Machine._dial_failed,
    (State.WAITING, TimeUp): Machine._start_pass,
    (State.WAITING, Wanted): Machine._hurry,
    (State.CONNECTED, Lost): Machine._epoch_lost,
    (State.CONNECTED, DialFailed): Machine._another_failed,
    (State.CONNECTED, Dialed): Machine._another_dialed,
    (State.CONNECTED, Wanted): Machine._hurry_another,
    (State.CONNECTED, Prefer): Machine._prefer,
    (State.GAVE_UP, Wanted): Machine._begin,
    (State.CLOSED, Wanted): Machine._refuse,
    **{
        (state, kind): handler
        for state in State
        if state is not State.CLOSED
        for kind, handler in _ANYWHERE.items()
    },
}
