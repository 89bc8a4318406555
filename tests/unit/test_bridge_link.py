"""The machine of a link: destination first, nothing settled too early, every wait bounded."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from understudy.core.backoff import Backoff
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.link import Link
from understudyd.bridge.parking import Parking
from understudyd.bridge.settings import FIRST_WINDOW, LinkSettings
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.bodies import body_frames, content_header, join_body
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build, get_header
from understudyd.bridge.wire.reader import Returned
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

A = TypeVar("A", bound=Action)

PROPERTIES = build({"delivery_mode": 2})
EXACT = Backoff(100.0, 30_000.0, jitter=0.0)


def parcel(body: bytes) -> Parcel:
    header = content_header(PROPERTIES, len(body))
    return (encode_publish("", "orders"), header, body_frames(body, 4096), len(body))


def back(body: bytes, key: str = "orders") -> Returned:
    frames = body_frames(body, 4096)
    return Returned(312, "NO_ROUTE", "", key, PROPERTIES, len(body), frames)


def link(**given: Any) -> Link:
    return Link(LinkSettings(**{"backoff": EXACT, **given}), Parking("b"), Random(1))


def running(**given: Any) -> Link:
    made = link(**given)
    made.start(0.0)
    made.target_up(0.0)
    made.source_up(0.0)
    assert made.state is State.RUNNING
    return made


def deliver(to: Link, *tags: int, now: float = 0.0) -> list[Action]:
    return to.delivered(list(tags), [parcel(b"%d" % tag) for tag in tags], now)


def only(kind: type[A], actions: list[Action]) -> A:
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


def bodies(actions: list[Action]) -> list[bytes]:
    sent = [action for action in actions if isinstance(action, Send)]
    return [join_body(piece) for action in sent for piece in action.pieces[2::3]]


def test_the_target_is_opened_before_the_source() -> None:
    made = link()
    assert made.start(0.0) == [OpenTarget()]
    assert made.shown == "waiting-target"
    assert made.target_up(0.0) == [OpenSource(FIRST_WINDOW)]
    assert made.shown == "waiting-source"
    assert made.source_up(0.0) == []
    assert made.shown == "running"


def test_an_end_that_does_not_open_is_tried_again_ever_later() -> None:
    made = link()
    made.start(0.0)
    waits = []
    now = 0.0
    for _ in range(12):
        assert made.target_lost("refused", now) == []
        assert made.due is not None
        waits.append(made.due - now)
        now = made.due
        assert made.tick(now) == [OpenTarget()]
    assert waits[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert waits[-1] == 30.0
    assert made.reason == "target: refused"


def test_a_batch_is_sent_at_once_and_acknowledged_when_nothing_is_left() -> None:
    made = running()
    assert bodies(deliver(made, 1, 2, 3)) == [b"1", b"2", b"3"]
    assert made.confirmed([(3, 1, True)], 0.0) == [Acknowledge(3)]
    assert made.forwarded == 3


def test_acknowledgements_are_grouped() -> None:
    made = running()
    made.window = 400
    deliver(made, *range(1, 41))
    assert made.confirmed([(9, 1, True)], 1.0) == []
    assert made.due == pytest.approx(1.025)
    assert made.tick(1.025) == [Acknowledge(9)]
    assert Acknowledge(19) in made.confirmed([(19, 1, True)], 2.0)


def test_the_window_doubles_with_each_that_was_settled_in_full() -> None:
    made = running(prefetch=50)
    windows = []
    tag = 0
    for _ in range(10):
        deliver(made, *range(tag + 1, tag + 17))
        tag += 16
        windows += [
            action.window
            for action in made.confirmed([(tag, 1, True)], 0.0)
            if isinstance(action, Widen)
        ]
    assert windows == [32, 50]
    assert made.target_lost("gone", 0.0) == []
    assert made.source_lost("gone", 0.0) == []
    assert made.target_up(0.0) == [OpenSource(FIRST_WINDOW)]


def test_what_is_in_flight_is_held_for_a_lost_target_and_sent_again() -> None:
    made = running()
    made.window = 400
    deliver(made, 1, 2, 3)
    made.confirmed([(1, 0, True)], 0.0)
    assert made.target_lost("connection reset", 1.0) == []
    assert made.shown == "holding"
    assert not made.wants_reading
    assert deliver(made, 4, now=1.0) == []
    assert made.tick(1.1) == [Acknowledge(1), OpenTarget()]
    assert bodies(made.target_up(5.0)) == [b"2", b"3", b"4"]
    assert made.wants_reading
    assert Acknowledge(4) in made.confirmed([(3, 1, True)], 5.0)


def test_what_was_held_long_enough_is_given_back() -> None:
    made = running(hold_time=10.0)
    deliver(made, 1, 2)
    made.target_lost("gone", 0.0)
    made.confirmed([], 0.0)
    actions: list[Action] = []
    now = 0.0
    while made.state is State.HOLDING:
        assert made.due is not None
        now = made.due
        actions = made.tick(now)
        if OpenTarget() in actions and made.state is State.HOLDING:
            made.target_lost("still gone", now)
    assert now == 10.0
    assert actions == [CloseSource()]
    assert len(made.ledger) == 0
    assert made.shown == "waiting-target"
    made.target_lost("still gone", now)
    assert made.target_up(now + 60) == [OpenSource(FIRST_WINDOW)]


def test_settled_messages_are_acknowledged_before_the_rest_is_given_back() -> None:
    made = running(hold_time=0.01)
    made.window = 400
    deliver(made, 1, 2)
    made.confirmed([(1, 0, True)], 0.0)
    made.target_lost("gone", 0.0)
    assert made.tick(0.01) == [Acknowledge(1), CloseSource()]


def test_a_lost_source_makes_its_tags_void() -> None:
    made = running()
    deliver(made, 1, 2)
    assert made.source_lost("the queue was deleted", 0.0) == []
    assert made.shown == "waiting-source"
    assert made.tick(0.1) == [OpenSource(FIRST_WINDOW)]
    made.source_up(0.1)
    assert bodies(deliver(made, 1)) == [b"1"]
    assert made.confirmed([(2, 1, True)], 0.1) == []
    assert made.confirmed([(3, 0, True)], 0.1) == [Acknowledge(1)]


def test_a_blocked_target_stops_the_reading_and_no_clock_runs() -> None:
    made = running()
    deliver(made, 1)
    made.blocked("low on memory")
    assert made.shown == "blocked"
    assert not made.wants_reading
    made.tick(99.0)
    assert made.shown == "blocked"
    made.unblocked(100.0)
    assert made.wants_reading
    made.tick(129.9)
    assert made.shown == "running"
    assert CloseTarget() in made.tick(130.0)


def test_a_window_is_bounded_by_bytes_too() -> None:
    made = running(size=5)
    deliver(made, 1, 2, 3, 4)
    assert made.wants_reading
    deliver(made, 5)
    assert not made.wants_reading
    made.confirmed([(1, 0, True)], 0.0)
    assert made.wants_reading
    made.congested(True, 0.0)
    assert not made.wants_reading


def test_confirms_that_do_not_come_are_a_lost_target() -> None:
    made = running(confirm_timeout=30.0)
    deliver(made, 1, 2, now=1.0)
    made.confirmed([(1, 0, True)], 11.0)
    assert [action for action in made.tick(40.9) if isinstance(action, CloseTarget)] == []
    assert CloseTarget() in made.tick(41.0)
    assert made.shown == "holding"
    assert "no confirm within 30 s" in made.reason


def test_no_confirm_is_due_while_we_have_not_sent_all() -> None:
    made = running(confirm_timeout=30.0)
    deliver(made, 1)
    made.congested(True, 1.0)
    made.tick(59.0)
    assert made.shown == "running"
    made.congested(False, 100.0)
    made.tick(129.0)
    assert made.shown == "running"
    assert CloseTarget() in made.tick(130.0)


def test_what_is_refused_is_tried_again_with_few_and_without_a_hot_loop() -> None:
    made = running()
    deliver(made, *range(1, 9))
    refused = made.confirmed([(2, 1, True), (8, 1, False)], 0.0)
    assert bodies(refused) == []
    assert made.shown == "retrying"
    assert not made.wants_reading
    now, number, waits = 0.0, 8, []
    for _ in range(6):  # still full
        made.tick(now + 0.03)
        assert made.due is not None
        waits.append(round(made.due - now, 3))
        now = made.due
        assert bodies(made.tick(now)) == [b"3"]
        number += 1
        made.confirmed([(number, 0, False)], now)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert made.due is not None
    made.tick(made.due)
    number += 1
    assert bodies(made.confirmed([(number, 0, True)], now)) == [b"4", b"5"]
    number += 2
    assert bodies(made.confirmed([(number, 1, True)], now)) == [b"6", b"7", b"8"]
    number += 3
    made.confirmed([(number, 1, True)], now)
    assert made.shown == "running"
    assert made.retried == 12


def test_acks_that_were_under_way_do_not_end_a_retry() -> None:
    made = running()
    deliver(made, 1, 2, 3)
    made.confirmed([(1, 0, False)], 0.0)
    made.confirmed([(3, 1, True)], 0.0)
    assert made.shown == "retrying"
    assert made.due == pytest.approx(0.1)


def test_an_unroutable_message_goes_to_the_parking_queue_before_it_is_settled() -> None:
    made = running()
    deliver(made, 1, 2)
    assert made.returned(back(b"1"), 0.0) == []
    (send,) = made.confirmed([(2, 1, True)], 0.0)
    assert isinstance(send, Send)
    publish, header, frames = send.pieces
    assert publish == encode_publish("", "understudy.parking.b")
    assert join_body(frames) == b"1"
    told = {name: get_header(header[19:-1], f"x-understudy-parked-{name}") for name in PARKED}
    assert told == {
        "reason": "312 NO_ROUTE",
        "bridge": "b",
        "exchange": "",
        "routing-key": "orders",
    }
    assert made.confirmed([(3, 0, True)], 0.0) == [Acknowledge(2)]
    assert made.parked == 1


PARKED = ("reason", "bridge", "exchange", "routing-key")


def test_a_return_that_fits_nothing_ends_the_connection() -> None:
    made = running()
    deliver(made, 1)
    assert made.returned(back(b"unknown"), 0.0) == [CloseTarget()]
    assert made.shown == "holding"
    assert len(made.ledger) == 1


def test_a_parking_queue_that_is_gone_is_made_again() -> None:
    made = running()
    deliver(made, 1)
    made.returned(back(b"1"), 0.0)
    (send,) = made.confirmed([(1, 0, True)], 0.0)
    assert isinstance(send, Send)
    header, frames = send.pieces[1:]
    parked = Returned(312, "NO_ROUTE", "", "understudy.parking.b", header[19:-1], 1, frames)
    assert made.returned(parked, 0.0) == [CloseTarget()]
    assert made.shown == "holding"
    made.tick(1.0)
    assert bodies(made.target_up(1.0)) == [b"1"]


def test_the_message_that_closes_the_channel_is_found_and_parked() -> None:
    made = running()
    deliver(made, 1, 2, 3)
    closed = Closed("channel", 406, "PRECONDITION_FAILED - message size is larger")
    made.target_lost(str(closed), 0.0, closed)
    made.tick(1.0)
    assert bodies(made.target_up(1.0)) == [b"1"]
    assert bodies(made.confirmed([(1, 0, True)], 1.0)) == [b"2"]
    aside = only(ParkAtSource, made.target_lost(str(closed), 1.0, closed))
    assert aside.parcel[0] == encode_publish("", "understudy.parking.b")
    assert join_body(aside.parcel[2]) == b"2"
    made.tick(2.0)
    assert bodies(made.target_up(2.0)) == [b"3"]
    made.confirmed([(1, 0, True)], 2.0)
    assert made.ledger.acknowledgeable == 0, "2 is nowhere yet"
    made.park_failed("gone", 2.0)
    assert only(ParkAtSource, made.tick(2.5)) == aside
    assert made.park_done(aside, 2.5) == [Acknowledge(3)]
    assert made.parked == 1
    assert made.wants_reading
    assert made.park_done(aside, 2.5) == []


def test_what_came_meanwhile_follows_those_that_went_one_by_one() -> None:
    made = running()
    deliver(made, 1)
    closed = Closed("channel", 406, "PRECONDITION_FAILED")
    made.target_lost(str(closed), 0.0, closed)
    deliver(made, 2, 3)
    made.tick(1.0)
    assert bodies(made.target_up(1.0)) == [b"1"]
    assert bodies(made.confirmed([(1, 0, True)], 1.0)) == [b"2", b"3"]


def test_what_was_parked_for_a_source_that_is_gone_settles_nothing_of_the_next() -> None:
    made = running()
    deliver(made, 1)
    closed = Closed("channel", 406, "PRECONDITION_FAILED")
    made.target_lost(str(closed), 0.0, closed)
    made.tick(1.0)
    made.target_up(1.0)
    aside = only(ParkAtSource, made.target_lost(str(closed), 1.0, closed))
    made.source_lost("gone", 1.0)
    for _ in range(3):
        made.tick(10.0)
        made.target_up(10.0)
        made.source_up(10.0)
    assert made.state is State.RUNNING
    deliver(made, 1)
    assert made.park_done(aside, 10.0) == []
    assert len(made.ledger) == 1


def test_codes_that_tell_of_the_broker_blame_no_message() -> None:
    made = running()
    deliver(made, 1)
    closed = Closed("connection", 320, "CONNECTION_FORCED - broker forced connection closure")
    for turn in range(3):
        made.target_lost(str(closed), float(turn), closed)
        made.tick(turn + 0.9)
        assert bodies(made.target_up(turn + 0.9)) == [b"1"]
    assert made.parked == 0


def test_a_target_that_closes_over_the_first_message_is_no_hot_loop() -> None:
    made = running()
    deliver(made, 1)
    now, waits = 0.0, []
    for _ in range(5):
        made.target_lost("404 NOT_FOUND - no exchange", now)
        assert made.due is not None
        waits.append(round(made.due - now, 3))
        now = made.due
        made.tick(now)
        made.target_up(now)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6]


def test_a_source_that_has_messages_and_delivers_none_is_opened_anew() -> None:
    made = running(watch_time=60.0)
    assert made.tick(60.0) == [AskSource()]
    assert made.source_has(0, 60.1) == []
    assert made.shown == "running"
    assert made.tick(120.0) == [AskSource()]
    assert made.source_has(7, 120.1) == [CloseSource()]
    assert made.shown == "waiting-source"
    assert made.reason == "source: 7 messages are ready, none came for 60 s"
    assert made.tick(130.0) == [OpenSource(FIRST_WINDOW)]


def test_a_source_is_not_asked_while_messages_come_or_nothing_is_read() -> None:
    made = running(watch_time=60.0, confirm_timeout=1000.0)
    deliver(made, 1, now=50.0)
    made.confirmed([(1, 0, True)], 50.0)
    assert made.tick(60.0) == []
    assert made.tick(120.0) == [AskSource()]
    deliver(made, 2, now=120.1)
    assert made.source_has(5, 120.2) == []
    made.confirmed([(2, 0, True)], 120.2)
    made.blocked("memory")
    assert made.tick(600.0) == []


def test_stopping_settles_what_is_in_flight() -> None:
    made = running()
    deliver(made, 1, 2)
    assert made.stop(0.0) == []
    assert made.shown == "draining"
    assert deliver(made, 3) == []
    actions = made.confirmed([(2, 1, True)], 0.0)
    assert actions == [Acknowledge(2), CloseSource(), CloseTarget(), Finished()]
    assert made.shown == "stopped"
    assert made.due is None


def test_stopping_waits_no_longer_than_it_may() -> None:
    made = running(drain_time=10.0)
    deliver(made, 1, 2)
    made.confirmed([(1, 0, True)], 0.0)
    made.stop(0.0)
    made.tick(9.9)
    assert made.shown == "draining"
    assert made.tick(10.0) == [CloseSource(), CloseTarget(), Finished()]


@pytest.mark.parametrize("turns", range(6))
def test_stopping_ends_from_any_state(turns: int) -> None:
    made = link()
    for step in (made.start, made.target_up, made.source_up)[:turns]:
        step(0.0)
    if turns == 4:
        made.target_lost("gone", 0.0)
    if turns == 5:
        deliver(made, 1)
        made.confirmed([(1, 0, False)], 0.0)
    made.stop(0.0)
    if made.due is not None:
        made.tick(made.due)
    if made.due is not None:
        made.tick(10.0)
    assert made.shown == "stopped"
    assert made.stop(0.0) == []


def test_every_step_of_the_table_is_a_method_and_every_state_can_be_left() -> None:
    for (state, _), (_, steps) in TABLE.items():
        assert state is not State.STOPPED
        for step in steps:
            assert callable(getattr(link(), f"_{step}"))
    for state in set(State) - {State.STOPPED}:
        stops = (state, Happening.STOP) in TABLE or (state, Happening.SETTLED) in TABLE
        assert stops, f"{state} cannot be stopped"
    happenings = {happening for _, happening in TABLE}
    for timer in Timer:
        if isinstance(timer.value, Happening):
            assert timer.value in happenings
        else:
            assert callable(getattr(link(), f"_{timer.value}"))


class Model(RuleBasedStateMachine):
    """A link between two brokers of which each may do anything at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.link = link(prefetch=64, hold_time=5.0, confirm_timeout=20.0)
        self.queue = list(range(1, 400))  # messages the source has, oldest first
        self.unacknowledged: dict[int, int] = {}  # tag -> message
        self.tags = 0
        self.prefetch = 0
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
            elif isinstance(action, Widen):
                self.prefetch = action.window
            elif isinstance(action, CloseSource):
                self.close_source()
                self.source_wanted = False
            elif isinstance(action, Send):
                assert self.target_open
                for body in bodies([action]):
                    self.number += 1
                    self.under_way[self.number] = body
            elif isinstance(action, Acknowledge):
                for tag in [tag for tag in self.unacknowledged if tag <= action.tag]:
                    message = self.unacknowledged.pop(tag)
                    assert message in self.arrived, "acknowledged before it arrived"
                    self.gone.add(message)
            elif isinstance(action, ParkAtSource):
                self.parking = action
            elif isinstance(action, AskSource):
                self.do(self.link.source_has(0, self.now))
            else:
                assert not self.source_open
                assert not self.target_open
                self.finished = True

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

    @precondition(lambda self: self.source_open)
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
        self.do(self.link.delivered(tags, parcels, self.now))

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
            self.arrived.add(int(join_body(action.parcel[2])))
            self.do(self.link.park_done(action, self.now))
        else:
            self.do(self.link.park_failed("refused", self.now))

    @rule(is_blocked=st.booleans())
    def block(self, is_blocked: bool) -> None:
        if is_blocked:
            self.link.blocked("memory")
        else:
            self.link.unblocked(self.now)

    @rule()
    def stop(self) -> None:
        if self.now > 30.0:
            self.do(self.link.stop(self.now))

    @invariant()
    def nothing_is_lost(self) -> None:
        known = {*self.queue, *self.unacknowledged.values(), *self.gone}
        assert known == set(range(1, 400))
        assert self.gone <= self.arrived

    @invariant()
    def the_window_holds(self) -> None:
        assert len(self.link.ledger) <= max(self.prefetch, 64)
        assert not self.link.wants_reading or self.link.state is not State.HOLDING

    def teardown(self) -> None:
        """Whatever happened, a good hour ends it all: everything settled, or stopped."""
        self.link.unblocked(self.now)
        for _ in range(300):
            if self.finished:
                break
            self.now += 31.0
            self.do(self.link.tick(self.now))
            if self.target_wanted and not self.target_open:
                self.answer_target(works=True)
            if self.source_wanted and not self.source_open:
                self.answer_source(works=True)
            if self.parking is not None:
                self.park(works=True)
            if self.source_open:
                self.deliver(count=64)
            while self.under_way:
                last = max(self.under_way)
                self.arrived |= {int(body) for body in self.under_way.values()}
                self.under_way.clear()
                self.do(self.link.confirmed([(last, 1, True)], self.now))
        self.do(self.link.tick(self.now + 1.0))
        assert self.finished or not self.queue, (self.link.shown, len(self.queue))


Model.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestModel = Model.TestCase
