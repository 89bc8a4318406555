"""A link between two brokers of which each may do anything at any time."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from understudyd.bridge.parts import ENDING
from understudyd.bridge.patience import Limits
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.bodies import join_body
from understudyd.bridge.wire.methods import split_route
from understudyd.bridge.wire.reader import Returned
from understudyd.bridge.words import (
    Acknowledge,
    Action,
    AskSource,
    Batch,
    CloseSource,
    CloseTarget,
    Finished,
    OpenSource,
    OpenTarget,
    ParkAtSource,
    Rest,
    Send,
    State,
    Timer,
    Widen,
)
from understudyd.testing.linked import link, parcel

EVERY = range(1, 400)
LONG = 200.0  # s
HOLD_TIME = 5.0
SETTINGS: dict[str, Any] = {"prefetch": 64, "hold_time": HOLD_TIME, "blocked_time": 15.0}
ACKS = [True, True, True, False]
RESTING = (State.PAUSED, State.GIVEN_UP)
UP = (State.RUNNING, State.RETRYING, *ENDING)


def stays(message: int) -> bool:
    """Whether it may not be forwarded: it has come far enough."""
    return message % 9 == 0


class Model(RuleBasedStateMachine):
    """An end that is wanted and not open is being opened; a source delivers then already."""

    can_rest = True
    """Whether the source can stop delivering and keep what it has delivered."""
    limits: ClassVar[dict[str, Any]] = {}
    """How often the ends may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.link = link(can_rest=self.can_rest, **SETTINGS, **self.limits)
        self.queue = list(EVERY)  # messages the source has, in the order of delivery
        self.unacknowledged: dict[int, int] = {}  # tag -> message
        self.tags = 0
        self.prefetch = 0
        self.is_resting = False
        self.keeps_order = True  # what is given back goes to its place, else to the tail
        self.source_open = self.target_open = False
        self.source_wanted = self.target_wanted = False
        self.is_blocked = self.is_congested = self.is_asked = False
        self.under_way: dict[int, list[bytes]] = {}  # number -> its pieces
        self.number = 0
        self.arrived: set[int] = set()
        self.gone: set[int] = set()
        self.finished = False
        self.parking: ParkAtSource | None = None
        self.held_since: float | None = None

    @initialize(begins=st.sampled_from(["closed", "draining", "running", "refused", "suspects"]))
    def start(self, begins: str) -> None:
        """In the middle of what takes many steps to come to."""
        self.do(self.link.start(0.0))
        if begins != "closed":
            self.answer(works=True)
            self.deliver(count=2)
        if begins == "draining":
            self.do(self.link.pause(self.now, at_once=False))
        elif begins == "suspects":
            self.go_away(code=406)
            self.pass_time(seconds=0.5, works=True)
        if begins in ("refused", "suspects"):
            self.confirm_upto(max(self.under_way), multiple=True, is_ack=False)

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            getattr(self, f"do_{type(action).__name__}")(action)

    def do_OpenTarget(self, _: OpenTarget) -> None:
        assert not self.target_wanted, "it is open, or being opened"
        self.target_wanted = True

    def do_CloseTarget(self, _: CloseTarget) -> None:
        self.close_target()

    def do_OpenSource(self, action: OpenSource) -> None:
        assert self.target_open, "the source is opened before the target"
        assert not self.source_wanted, "it is open, or being opened"
        self.source_wanted, self.prefetch = True, action.window
        self.is_resting = False

    def do_Widen(self, action: Widen) -> None:
        assert self.source_wanted
        self.prefetch, self.is_resting = action.window, False

    def do_Rest(self, _: Rest) -> None:
        assert self.can_rest
        assert self.source_wanted
        self.is_resting = True

    def do_CloseSource(self, _: CloseSource) -> None:
        self.close_source()

    def do_Send(self, action: Send) -> None:
        assert self.target_open
        for first in range(0, len(action.pieces), 3):
            pieces = action.pieces[first : first + 3]
            assert not stays(message_of(pieces)), "forwarded though it has come far enough"
            self.number += 1
            self.under_way[self.number] = pieces

    def do_Acknowledge(self, action: Acknowledge) -> None:
        assert action.tag <= self.tags, "never delivered"
        for tag in [tag for tag in self.unacknowledged if tag <= action.tag]:
            self.settle(self.unacknowledged.pop(tag))

    def do_ParkAtSource(self, action: ParkAtSource) -> None:
        self.parking = action

    def do_AskSource(self, _: AskSource) -> None:
        self.is_asked = True

    def do_Finished(self, _: Finished) -> None:
        assert not self.source_wanted
        assert not self.target_wanted
        self.finished = True

    def settle(self, message: int) -> None:
        if stays(message):
            assert message in {*self.queue, *self.unacknowledged.values()}, "settled away"
        else:
            assert message in self.arrived, "acknowledged before it arrived"
            self.gone.add(message)

    def close_source(self) -> None:
        back = sorted({*self.unacknowledged.values()} - {*self.queue})
        self.queue = [*back, *self.queue] if self.keeps_order else [*self.queue, *back]
        self.unacknowledged.clear()
        self.tags = 0
        self.source_open = self.source_wanted = False
        self.held_since = None

    def close_target(self) -> None:
        self.under_way.clear()
        self.number = 0
        self.target_open = self.target_wanted = self.is_blocked = self.is_congested = False

    @rule(
        seconds=st.sampled_from([0.01, 0.5, 0.5, 10.0, 60.0]),
        works=st.sampled_from([True, True, True, False, None]),
    )
    def pass_time(self, seconds: float, works: bool | None) -> None:
        """What is being opened then works or does not, or takes longer."""
        self.now += seconds
        self.do(self.link.tick(self.now))
        if works is not None:
            self.answer(works=works)

    def answer(self, *, works: bool) -> None:
        if self.target_wanted and not self.target_open:
            if works:
                self.target_open = True
                self.do(self.link.target_up(self.now, confirms_when_idle=self.can_rest))
            else:
                self.lose_target(None)
        if self.source_wanted and not self.source_open:
            if works:
                self.source_open = True
                self.do(self.link.source_up(self.now))
            else:
                self.lose_source()

    def lose_target(self, closed: Closed | None) -> None:
        self.close_target()
        self.do(self.link.target_lost("gone", self.now, closed))

    def lose_source(self) -> None:
        self.close_source()
        self.do(self.link.source_lost("gone", self.now))

    @precondition(lambda self: self.source_wanted and not self.is_resting)
    @rule(count=st.integers(1, 30), is_late=st.booleans())
    def deliver(self, count: int, is_late: bool = False) -> None:
        """Seldom when nothing is read: what came before that."""
        if not (is_late or self.link.wants_reading):
            return
        room = self.prefetch - len(self.unacknowledged)
        messages = self.queue[: max(0, min(count, room))]
        del self.queue[: len(messages)]
        tags = []
        for message in messages:
            self.tags += 1
            tags.append(self.tags)
            self.unacknowledged[self.tags] = message
        self.tell_of(tags, messages)

    def tell_of(self, tags: list[int], messages: list[int]) -> None:
        parcels = [parcel(b"%d" % message) for message in messages]
        back = [tag for tag, message in zip(tags, messages, strict=True) if stays(message)]
        self.do(
            self.link.delivered(Batch(tags, parcels, back, back), self.now, max(tags, default=0))
        )

    @precondition(lambda self: not self.source_wanted)
    @rule(first=st.integers(1, 20), count=st.integers(1, 20))
    def deliver_late(self, first: int, count: int) -> None:
        """Of a source that was closed, or lost: it has given all of this back."""
        messages = self.queue[:count]
        self.tell_of(list(range(first, first + len(messages))), messages)

    @precondition(lambda self: self.under_way)
    @rule(which=st.sampled_from([0, -1]), multiple=st.booleans(), is_ack=st.sampled_from(ACKS))
    def confirm(self, which: int, multiple: bool, is_ack: bool) -> None:
        number = sorted(self.under_way)[which]
        self.confirm_upto(number, multiple=multiple, is_ack=is_ack)

    def confirm_upto(self, number: int, *, multiple: bool, is_ack: bool) -> None:
        for each in [n for n in self.under_way if n == number or (multiple and n < number)]:
            pieces = self.under_way.pop(each)
            if is_ack:
                self.arrived.add(message_of(pieces))
                self.held_since = None
        self.do(self.link.confirmed([(number, int(multiple), is_ack)], self.now))

    @precondition(lambda self: self.under_way)
    @rule(is_first=st.booleans())
    def come_back(self, is_first: bool) -> None:
        """Nothing leads on from where it was sent: it comes back, and is confirmed."""
        number = min(self.under_way) if is_first else max(self.under_way)
        publish, header, frames = self.under_way[number]
        size = len(join_body(frames))
        route = split_route(publish[13:-2])
        message = Returned(312, "NO_ROUTE", *route, header[19:-1], size, frames)
        self.do(self.link.returned(message, self.now))
        if self.under_way.pop(number, None):
            self.do(self.link.confirmed([(number, 0, True)], self.now))

    @precondition(lambda self: self.target_open)
    @rule(code=st.sampled_from([0, 320, 406, 406, 506]))
    def go_away(self, code: int) -> None:
        """The target, with a word or without."""
        self.lose_target(Closed("channel", code, "gone") if code else None)

    @precondition(lambda self: self.source_open)
    @rule()
    def cut_source(self) -> None:
        self.lose_source()

    @precondition(lambda self: self.is_asked)
    @rule()
    def tell_what_is_ready(self) -> None:
        self.is_asked = False
        self.do(self.link.source_has(len(self.queue), self.now))

    @precondition(lambda self: self.parking is not None)
    @rule(works=st.booleans())
    def park(self, works: bool) -> None:
        action, self.parking = self.parking, None
        assert action is not None
        if works:
            message = message_of(action.parcel)
            if not stays(message):
                self.arrived.add(message)
            elif message in self.unacknowledged.values():
                self.queue.append(message)
            self.do(self.link.park_done(action, self.now))
        else:
            self.do(self.link.park_failed("refused", self.now))

    @precondition(lambda self: self.target_wanted)
    @rule(how=st.sampled_from(["", "", "blocked", "congested"]))
    def hinder(self, how: str) -> None:
        """It does not read, or reads again."""
        if how == "blocked":
            self.link.blocked("memory", self.now)
        elif self.is_blocked:
            self.link.unblocked(self.now)
        self.is_blocked, self.is_congested = how == "blocked", how == "congested"
        self.link.congested(self.is_congested, self.now)

    @rule(what=st.sampled_from(["order", "pause", "drain", "move", "stop"]))
    def ask(self, what: str) -> None:
        """One that is paused goes on, so that most of the time something happens."""
        if self.link.state in RESTING and what != "stop":
            self.do(self.link.resume(self.now))
        elif what == "order":
            self.keeps_order = not self.keeps_order
        elif what in ("pause", "drain"):
            self.do(self.link.pause(self.now, at_once=what == "pause"))
        elif what == "move":
            self.do(self.link.move(self.now))
        elif self.now > LONG:
            self.do(self.link.stop(self.now))

    @property
    def is_held(self) -> bool:
        """Whether the target takes nothing of what the source has delivered."""
        state = self.link.state
        is_blocked = self.is_blocked and state is State.RUNNING
        return self.source_wanted and (is_blocked or state in (State.RETRYING, State.HOLDING))

    @invariant()
    def nothing_is_held_for_ever(self) -> None:
        since = self.now if self.held_since is None else self.held_since
        self.held_since = since if self.is_held else None
        due = self.link._timers._due.get(Timer.HOLD, since)
        assert due <= since + HOLD_TIME

    @invariant()
    def nothing_is_lost(self) -> None:
        known = {*self.queue, *self.unacknowledged.values(), *self.gone}
        assert known == set(EVERY)
        assert self.gone <= self.arrived

    @invariant()
    def the_window_holds(self) -> None:
        assert len(self.link.ledger) <= max(self.prefetch, 64)
        assert not self.link.wants_reading or self.link.state is not State.HOLDING

    @invariant()
    def the_ledger_holds_only_what_this_source_delivered(self) -> None:
        held = 0
        for tag, message in self.unacknowledged.items():
            try:
                found = self.link.ledger.parcel(tag)
            except KeyError:
                continue
            assert message_of(found) == message
            held += 1
        assert held == len(self.link.ledger)

    @invariant()
    def who_has_nothing_to_do_reads(self) -> None:
        made = self.link
        if made.state is State.RUNNING and not self.under_way:
            assert made.wants_reading or self.is_blocked or self.is_congested
            assert made.due is not None
        is_hindered = made.reasons.blocked or Timer.BLOCKED in made._timers
        assert self.is_blocked or self.finished or not is_hindered

    @invariant()
    def whatever_waits_waits_for_something(self) -> None:
        made, timers = self.link, self.link._timers
        if made.state in UP and made.ledger.has_waiting:
            assert self.under_way or Timer.RETRY in timers
        if made.state is State.RETRYING or (made.state in ENDING and made.ledger):
            assert self.under_way or Timer.RETRY in timers or made.ledger.has_aside
        if self.under_way and not self.is_blocked and not self.is_congested:
            assert Timer.CONFIRM in timers
        if made.ledger.has_aside:
            assert self.parking is not None or Timer.PARK in timers
        if made.state in (State.HOLDING, State.WAITING_TARGET):
            assert self.target_wanted is not (Timer.TARGET in timers)
        assert self.is_held is (Timer.HOLD in timers)
        if made.state is State.WAITING_ROOM:
            assert not self.source_wanted
            assert self.target_open
            assert self.is_blocked is not (Timer.ROOM in timers)
        if made.state is State.WAITING_SOURCE:
            assert self.source_wanted is not (Timer.SOURCE in timers)
        assert (made.state in ENDING) is (Timer.DRAIN in timers)
        if self.is_resting and self.source_open and not made.ledger:
            assert Timer.STAY in timers

    @invariant()
    def who_rests_holds_nothing(self) -> None:
        if self.link.state in RESTING:
            assert not self.source_wanted
            assert not self.target_wanted
            assert not self.link.ledger
            assert self.link.due is None
        assert self.link.reason or self.link.state in (State.RUNNING, State.STOPPED)

    def teardown(self) -> None:
        """Whatever happened, some hours end it all: everything settled, or stopped."""
        if self.target_wanted:
            self.hinder(how="")
        for _ in range(300):
            if self.finished:
                break
            self.now += 31.0
            self.do(self.link.tick(self.now))
            self.do(self.link.resume(self.now))
            self.answer(works=True)
            if self.parking is not None:
                self.park(works=True)
            if self.source_open and not self.is_resting:
                self.deliver(count=64, is_late=True)
            while self.under_way:
                self.confirm_upto(max(self.under_way), multiple=True, is_ack=True)
        self.do(self.link.tick(self.now + 1.0))
        assert self.finished or all(map(stays, self.queue)), (self.link.shown, len(self.queue))


def message_of(pieces: Any) -> int:
    """What its body says."""
    return int(join_body(pieces[2]))


class WithoutRest(Model):
    """A source of STOMP."""

    can_rest = False


class Impatient(Model):
    """Gives up after some failures; one end even when it is lost."""

    limits: ClassVar[dict[str, Any]] = {
        "target_limits": Limits(first_passes=1, passes=2),
        "source_limits": Limits(reconnects=False),
    }


_SETTINGS = settings(max_examples=50, stateful_step_count=50, deadline=None)

TestModel = Model.TestCase
TestModel.settings = _SETTINGS
TestWithoutRest = WithoutRest.TestCase
TestImpatient = Impatient.TestCase
TestImpatient.settings = _SETTINGS
TestWithoutRest.settings = _SETTINGS
