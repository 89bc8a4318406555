"""The failover state machine: what holds for any sequence of events."""

from __future__ import annotations

import copy
import random
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.backoff import Backoff
from understudy.core.endpoint import Endpoint
from understudy.core.events import (
    Connected,
    Event,
    Interrupted,
    Resumed,
    SlowReconnect,
)
from understudy.core.happenings import (
    Action,
    Closed,
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
from understudy.core.machine import TRANSITIONS, Machine, State
from understudy.core.options import Options
from understudy.testing.machines import A, B, C, D, at

EXTRA = at("e")

ANY_ENDPOINT = st.sampled_from([A, B, C, D, EXTRA])
SOME = st.lists(ANY_ENDPOINT, max_size=3, unique=True).map(tuple)
ANSWER = object()  # placeholders: they become the event that fits the machine at that time
REFUSAL = object()
LOSS = object()
LIMIT = object()  # the current endpoint takes no further connection

HAPPENINGS = st.one_of(
    st.sampled_from([ANSWER, REFUSAL, REFUSAL, LOSS, LIMIT, Wanted(), TimeUp(), TimeUp()]),
    st.builds(Dialed, ANY_ENDPOINT),
    st.builds(DialFailed, ANY_ENDPOINT, st.just("stray")),
    st.builds(Lost, st.integers(0, 4), st.just("stray")),
    st.builds(Listed, SOME, st.booleans()),
    st.builds(Spares, SOME),
    st.builds(Prefer, ANY_ENDPOINT, st.just("wish")),
)

OPTIONS = st.fixed_dictionaries(
    {
        "reconnect": st.sampled_from([True, True, True, False]),
        "randomize": st.booleans(),
        "max_reconnect_attempts": st.sampled_from([0, 0, 1, 2, -1]),
        "startup_max_reconnect_attempts": st.sampled_from([0, 0, 1, 3, -1]),
        "initial_reconnect_delay": st.sampled_from([0, 10, 5000, 50_000]),
        "use_exponential_back_off": st.booleans(),
        "reconnect_delay_jitter": st.sampled_from([0, 0.5, 1]),
        "priority_backup": st.booleans(),
        "warn_after_reconnect_attempts": st.sampled_from([0, 1, 2]),
    }
)


def _told(actions: list[Action]) -> list[Event]:
    return [action.event for action in actions if isinstance(action, Tell)]


def _is_refused(happening: Happening) -> bool:
    return isinstance(happening, DialFailed) and happening.is_refusal


def _state_of(it: Machine) -> dict[str, object]:
    return {name: copy.copy(value) for name, value in vars(it).items() if name != "_rng"}


class Watcher:
    """Feeds a machine and checks after each event what must always hold."""

    def __init__(self, endpoints: tuple[Endpoint, ...], options: Options, seed: int) -> None:
        self.options = options
        self.machine = Machine(endpoints, options, random.Random(seed))
        self.backoff = Backoff.of(options)
        self.dialing: Endpoint | None = None  # the dial that is not answered yet
        self.events: list[str] = []
        self.failures = 0  # passes
        self.lost: Endpoint | None = None
        self.spares: tuple[Endpoint, ...] = ()
        self.known: tuple[Endpoint, ...] = ()  # at the beginning of the pass
        self.tried: list[Endpoint] = []
        self.expected_first: deque[Endpoint] = deque()

    def feed(self, drawn: object) -> None:
        it = self.machine
        before, epoch, current = it.state, it.epoch, it.current
        everything = _state_of(it)
        happening: Any = {
            ANSWER: Dialed(self.dialing or A),
            REFUSAL: DialFailed(self.dialing or A, "refused"),
            LOSS: Lost(epoch, "cut"),
            LIMIT: DialFailed(current or A, "limit", is_refusal=True),
        }.get(drawn, drawn)
        actions = it.receive(happening)
        self._check_silence(happening, before, epoch, actions, everything)
        if isinstance(happening, Spares) and before is not State.CLOSED:
            self.spares = happening.endpoints
        self._check_epoch(happening, epoch, current, actions)
        for action in actions:
            if isinstance(action, Tell):
                self._check_event(action.event)
        self._check_kinds(happening, before, actions)
        self._follow(happening, before, current, actions)

    def _check_silence(
        self,
        happening: Happening,
        before: State,
        epoch: int,
        actions: list[Action],
        everything: dict[str, object],
    ) -> None:
        stale = isinstance(happening, Lost) and happening.epoch != epoch
        if stale or (before, type(happening)) not in TRANSITIONS:
            assert actions == []
            assert _state_of(self.machine) == everything
        if before is State.CLOSED:
            assert not actions or isinstance(happening, Wanted)

    def _check_epoch(
        self,
        happening: Happening,
        epoch: int,
        current: Endpoint | None,
        actions: list[Action],
    ) -> None:
        it = self.machine
        begun = any(isinstance(event, Connected | Resumed) for event in _told(actions))
        assert it.epoch == epoch + begun
        assert (it.current is not None) == (it.state is State.CONNECTED)
        leaves = [action for action in actions if isinstance(action, Leave)]
        if current is not None and it.current != current:
            assert [leave.epoch for leave in leaves] == [epoch]
            assert actions[int(isinstance(happening, Listed))] == leaves[0]
        else:
            assert leaves == []

    def _check_event(self, event: Event) -> None:
        name = type(event).__name__
        if isinstance(event, Interrupted | Resumed):
            assert self.options.reconnect
            last = next((n for n in reversed(self.events) if n in ("Interrupted", "Resumed")), "")
            assert name == ("Resumed" if last == "Interrupted" else "Interrupted")
            assert "Connected" in self.events
        if isinstance(event, Connected):
            assert "Connected" not in self.events
        if isinstance(event, SlowReconnect):
            assert (self.failures + 1) % self.options.warn_after_reconnect_attempts == 0
        self.events.append(name)

    def _check_kinds(self, happening: Happening, before: State, actions: list[Action]) -> None:
        state = self.machine.state
        kinds: list[type] = [type(action) for action in actions]
        assert kinds.count(Dial) + kinds.count(Wait) + kinds.count(Fail) <= 1
        assert (Dial in kinds) <= (state is State.DIALING and kinds[-1:] == [Dial])
        is_refused = _is_refused(happening) and state is before is State.CONNECTED
        assert (Wait in kinds) <= (state is State.WAITING or is_refused)
        assert (Hurry in kinds) <= (state is before in (State.WAITING, State.CONNECTED))
        assert (Fail in kinds) <= (state in (State.GAVE_UP, State.CLOSED) or is_refused)
        if state is State.DIALING and before is not State.DIALING:
            assert Dial in kinds
        if state is State.WAITING and before is not State.WAITING:
            assert Wait in kinds

    def _follow(
        self,
        happening: Happening,
        before: State,
        current: Endpoint | None,
        actions: list[Action],
    ) -> None:
        it = self.machine
        if before is State.GAVE_UP and it.state is not before:
            self.failures = 0
        if before is State.CONNECTED:
            self._follow_further(happening, current, actions)
        pass_was_tried = before is State.DIALING and isinstance(happening, DialFailed)
        if it.state is State.CONNECTED and before is not State.CONNECTED:
            self.lost, self.failures, self.dialing = None, 0, None
        elif it.state is State.DIALING and before is not State.DIALING:
            self.known, self.tried = it.endpoints, []
            if isinstance(happening, Prefer):
                self.expected_first = deque([happening.endpoint])
            else:
                usable = (e for e in self.spares if e in self.known and e != self.lost)
                self.expected_first = deque(usable)
        elif before is State.DIALING and it.state in (State.WAITING, State.GAVE_UP):
            self._check_whole_pass()
            self.failures += 1
        is_over = it.state in (State.GAVE_UP, State.CLOSED)
        assert is_over or it.passes_failed == self.failures
        for action in actions:
            match action:
                case Dial(endpoint):
                    assert before is not State.DIALING or pass_was_tried
                    if self.expected_first:
                        assert endpoint == self.expected_first.popleft()
                    self.tried.append(endpoint)
                    self.dialing = endpoint
                case Wait(ms):
                    self._check_delay(happening, before, ms)
        if it.state is not State.DIALING:
            self.dialing = None

    def _follow_further(
        self, happening: Happening, current: Endpoint | None, actions: list[Action]
    ) -> None:
        """What happens while connected."""
        if self.machine.state is not State.CONNECTED:
            self.failures = 0
            if isinstance(happening, Lost | DialFailed):
                self.lost = current
        elif any(isinstance(action, Wait) for action in actions):
            self.failures += 1
        has_failed = any(isinstance(action, Fail) for action in actions)
        if has_failed or (isinstance(happening, Dialed) and happening.endpoint == current):
            self.failures = 0

    def _check_whole_pass(self) -> None:
        assert len(self.tried) == len(set(self.tried))
        assert set(self.tried) == set(self.known)
        if self.lost in self.known:
            assert self.tried[-1] == self.lost

    def _check_delay(self, happening: Happening, before: State, ms: float) -> None:
        if before is State.WAITING and isinstance(happening, Listed | Spares):
            assert ms == 0
            return
        first = "Connected" not in self.events
        exact = self.backoff.exact_ms(self.failures, first_connection=first)
        least = exact * (1 - self.backoff.jitter)
        assert least <= ms <= exact
        assert ms <= self.options.max_reconnect_delay
        if self.failures:
            assert ms >= 1  # never a hot loop

    def check_not_stuck(self) -> None:
        """From here, if all dials succeed: connected after at most one Wait and one Dial."""
        it = copy.deepcopy(self.machine)
        it.receive(Listed((EXTRA,)))  # there is something to dial
        actions = it.receive(Wanted())

        def state() -> State:
            return it.state

        if state() is State.CONNECTED:
            return
        if state() in (State.CLOSED, State.GAVE_UP):
            assert [type(action) for action in actions] == [Fail]
            assert state() is State.CLOSED or not self.options.reconnect
            return
        if state() is State.WAITING:
            actions = it.receive(TimeUp())
            assert state() is State.DIALING
        dial = actions[-1] if actions else Dial(self.dialing or A)
        assert isinstance(dial, Dial)
        it.receive(Dialed(dial.endpoint))
        assert state() is State.CONNECTED


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.sampled_from([A, B, C, D]), min_size=1, max_size=4, unique=True).map(tuple),
    OPTIONS,
    st.integers(0, 9),
    st.lists(HAPPENINGS, max_size=40),
    st.booleans(),
)
def test_what_holds_for_any_sequence_of_events(
    endpoints: tuple[Endpoint, ...],
    options: dict[str, Any],
    seed: int,
    drawn: list[object],
    close: bool,
) -> None:
    watcher = Watcher(endpoints, Options(**options), seed)
    for one in drawn:
        watcher.feed(one)
    watcher.check_not_stuck()
    if close:
        for one in (Closed(), *drawn[:5], Closed()):
            watcher.feed(one)
        watcher.check_not_stuck()


@settings(max_examples=40, deadline=None)
@given(
    OPTIONS,
    st.integers(0, 9),
    st.lists(st.sampled_from([ANSWER, REFUSAL, LOSS, LIMIT]), max_size=40),
)
def test_the_same_holds_in_long_quiet_runs(
    options: dict[str, Any], seed: int, drawn: list[object]
) -> None:
    """Only fitting events, so that whole passes fail and succeed again and again."""
    watcher = Watcher((A, B, C), Options(**options), seed)
    for one in drawn:
        if watcher.machine.state is State.WAITING:
            watcher.feed(TimeUp())
        watcher.feed(Wanted())
        watcher.feed(one)
    watcher.check_not_stuck()
