"""A link between two brokers of which each may do anything at any time."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.bodies import join_body
from understudyd.bridge.words import (
    Acknowledge,
    Action,
    AskSource,
    CloseSource,
    CloseTarget,
    OpenSource,
    OpenTarget,
    ParkAtSource,
    Rest,
    Send,
    State,
    Widen,
)
from understudyd.testing.linked import (
    bodies,
    link,
    parcel,
)

EVERY = range(1, 400)


def stays(message: int) -> bool:
    """Whether it may not be forwarded: it has come far enough."""
    return message % 9 == 0


class Model(RuleBasedStateMachine):
    """A link between two brokers of which each may do anything at any time."""

    can_rest = True
    """Whether the source can stop delivering and keep what it has delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.link = link(prefetch=64, hold_time=5.0, confirm_timeout=20.0, can_rest=self.can_rest)
        self.queue = list(EVERY)  # messages the source has, oldest first
        self.unacknowledged: dict[int, int] = {}  # tag -> message
        self.tags = 0
        self.prefetch = 0
        self.is_resting = False
        self.source_open = self.target_open = False
        self.source_wanted = self.target_wanted = False
        self.under_way: dict[int, bytes] = {}
        self.number = 0
        self.arrived: set[int] = set()
        self.gone: set[int] = set()
        self.finished = False
        self.parking: ParkAtSource | None = None
        self.do(self.link.start(0.0))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, OpenTarget):
                self.target_wanted = True
            elif isinstance(action, CloseTarget):
                self.close_target()
                self.target_wanted = False
            elif isinstance(action, OpenSource):
                assert self.target_open, "the source is opened before the target"
                self.source_wanted, self.prefetch = True, action.window
                self.is_resting = False
            elif isinstance(action, Widen):
                self.prefetch, self.is_resting = action.window, False
            elif isinstance(action, Rest):
                assert self.can_rest
                self.is_resting = True
            elif isinstance(action, CloseSource):
                self.close_source()
                self.source_wanted = False
            elif isinstance(action, Send):
                assert self.target_open
                for body in bodies([action]):
                    assert not stays(int(body)), "forwarded though it has come far enough"
                    self.number += 1
                    self.under_way[self.number] = body
            elif isinstance(action, Acknowledge):
                for tag in [tag for tag in self.unacknowledged if tag <= action.tag]:
                    self.settle(self.unacknowledged.pop(tag))
            elif isinstance(action, ParkAtSource):
                self.parking = action
            elif isinstance(action, AskSource):
                self.do(self.link.source_has(0, self.now))
            else:
                assert not self.source_open
                assert not self.target_open
                self.finished = True

    def settle(self, message: int) -> None:
        if stays(message):
            assert message in {*self.queue, *self.unacknowledged.values()}, "settled away"
        else:
            assert message in self.arrived, "acknowledged before it arrived"
            self.gone.add(message)

    def close_source(self) -> None:
        self.queue = sorted({*self.queue, *self.unacknowledged.values()})
        self.unacknowledged.clear()
        self.tags = 0
        self.source_open = False

    def close_target(self) -> None:
        self.under_way.clear()
        self.number = 0
        self.target_open = False

    @rule(seconds=st.sampled_from([0.01, 0.5, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.link.tick(self.now))

    @precondition(lambda self: self.target_wanted and not self.target_open)
    @rule(works=st.booleans())
    def answer_target(self, works: bool) -> None:
        self.target_wanted, self.target_open = False, works
        if works:
            self.do(self.link.target_up(self.now))
        else:
            self.do(self.link.target_lost("refused", self.now))

    @precondition(lambda self: self.source_wanted and not self.source_open)
    @rule(works=st.booleans())
    def answer_source(self, works: bool) -> None:
        self.source_wanted, self.source_open = False, works
        if works:
            self.do(self.link.source_up(self.now))
        else:
            self.do(self.link.source_lost("refused", self.now))

    @precondition(lambda self: self.source_open and not self.is_resting)
    @rule(count=st.integers(1, 30))
    def deliver(self, count: int) -> None:
        room = self.prefetch - len(self.unacknowledged)
        messages = self.queue[: max(0, min(count, room))]
        del self.queue[: len(messages)]
        tags = []
        for message in messages:
            self.tags += 1
            tags.append(self.tags)
            self.unacknowledged[self.tags] = message
        parcels = [parcel(b"%d" % message) for message in messages]
        back = [tag for tag, message in zip(tags, messages, strict=True) if stays(message)]
        self.do(self.link.delivered(tags, parcels, self.now, 0, back, back))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), multiple=st.booleans(), is_ack=st.booleans())
    def confirm(self, data: Any, multiple: bool, is_ack: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.under_way)))
        for each in [n for n in self.under_way if n == number or (multiple and n < number)]:
            body = self.under_way.pop(each)
            if is_ack:
                self.arrived.add(int(body))
        self.do(self.link.confirmed([(number, int(multiple), is_ack)], self.now))

    @precondition(lambda self: self.target_open)
    @rule(code=st.sampled_from([0, 320, 406]))
    def lose_target(self, code: int) -> None:
        self.close_target()
        closed = Closed("channel", code, "gone") if code else None
        self.do(self.link.target_lost("gone", self.now, closed))

    @precondition(lambda self: self.source_open)
    @rule()
    def lose_source(self) -> None:
        self.close_source()
        self.do(self.link.source_lost("gone", self.now))

    @precondition(lambda self: self.parking is not None)
    @rule(works=st.booleans())
    def park(self, works: bool) -> None:
        action, self.parking = self.parking, None
        assert action is not None
        if works:
            message = int(join_body(action.parcel[2]))
            if stays(message):
                self.queue.append(message)
            else:
                self.arrived.add(message)
            self.do(self.link.park_done(action, self.now))
        else:
            self.do(self.link.park_failed("refused", self.now))

    @rule(is_blocked=st.booleans())
    def block(self, is_blocked: bool) -> None:
        if is_blocked:
            self.link.blocked("memory", self.now)
        else:
            self.link.unblocked(self.now)

    @rule(at_once=st.booleans())
    def pause(self, at_once: bool) -> None:
        self.do(self.link.pause(self.now, at_once=at_once))

    @rule()
    def resume(self) -> None:
        self.do(self.link.resume(self.now))

    @rule()
    def stop(self) -> None:
        if self.now > 30.0:
            self.do(self.link.stop(self.now))

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
    def who_rests_holds_nothing(self) -> None:
        if self.link.state is State.PAUSED:
            ends = [self.source_open, self.source_wanted, self.target_open, self.target_wanted]
            assert not any(ends)
            assert not self.link.ledger
            assert self.link.due is None
        assert self.link.reason or self.link.state in (State.RUNNING, State.STOPPED)

    def teardown(self) -> None:
        """Whatever happened, a good hour ends it all: everything settled, or stopped."""
        self.link.unblocked(self.now)
        self.do(self.link.resume(self.now))
        for _ in range(300):
            if self.finished:
                break
            self.now += 31.0
            self.do(self.link.tick(self.now))
            self.do(self.link.resume(self.now))
            if self.target_wanted and not self.target_open:
                self.answer_target(works=True)
            if self.source_wanted and not self.source_open:
                self.answer_source(works=True)
            if self.parking is not None:
                self.park(works=True)
            if self.source_open and not self.is_resting:
                self.deliver(count=64)
            while self.under_way:
                last = max(self.under_way)
                self.arrived |= {int(body) for body in self.under_way.values()}
                self.under_way.clear()
                self.do(self.link.confirmed([(last, 1, True)], self.now))
        self.do(self.link.tick(self.now + 1.0))
        assert self.finished or all(map(stays, self.queue)), (self.link.shown, len(self.queue))


class WithoutRest(Model):
    """A source of STOMP."""

    can_rest = False


_SETTINGS = settings(max_examples=50, stateful_step_count=50, deadline=None)

TestModel = Model.TestCase
TestModel.settings = _SETTINGS
TestWithoutRest = WithoutRest.TestCase
TestWithoutRest.settings = _SETTINGS
