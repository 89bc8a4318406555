"""What the target of a link does not take: tried again, parked, or found one by one."""

from __future__ import annotations

import pytest

from understudyd.bridge.link import Link
from understudyd.bridge.rejects import DOUBTS
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.bodies import join_body
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import get_header
from understudyd.bridge.wire.reader import Returned
from understudyd.bridge.words import (
    Acknowledge,
    Action,
    Batch,
    CloseSource,
    CloseTarget,
    ParkAtSource,
    Send,
    State,
    Timer,
)
from understudyd.testing.linked import (
    back,
    bodies,
    deliver,
    only,
    parcel,
    running,
)


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
        "reason": "312 NO_ROUTE: no queue orders at the target",
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


def test_what_has_no_words_at_the_target_is_parked_one_after_the_other() -> None:
    made = running()
    parcels = [parcel(b"%d" % tag) for tag in (1, 2, 3)]
    first = made.delivered(Batch([1, 2, 3], parcels, [1, 3]), 0.0, 3)
    assert bodies(first) == [b"2"]
    one = only(ParkAtSource, first)
    assert one == ParkAtSource(1, parcels[0])
    again = made.delivered(Batch([4], [parcel(b"4")], [4]), 0.0, 4)
    assert again == [], "one is under way"
    made.confirmed([(1, 0, True)], 0.0)
    assert only(ParkAtSource, made.park_done(one, 0.0)).tag == 3
    assert made.due is not None, "2 is to be acknowledged soon"
    assert made.parked == 1


def test_one_that_cannot_be_parked_lets_the_others_go_first() -> None:
    made = running()
    parcels = [parcel(b"%d" % tag) for tag in (1, 2)]
    one = only(ParkAtSource, made.delivered(Batch([1, 2], parcels, [1, 2]), 0.0, 2))
    assert made.park_failed("no", 0.0) == []
    assert "parking at the source: no" in made.reason
    other = only(ParkAtSource, made.tick(1.0))
    assert (one.tag, other.tag) == (1, 2)
    assert only(ParkAtSource, made.park_done(other, 1.0)).tag == 1
    assert made.parked == 1
    assert only(Acknowledge, made.park_done(one, 1.0)).tag == 2


def test_a_message_over_which_the_target_goes_away_again_and_again_is_parked() -> None:
    """Scenario 34: without a word, so that it takes longer to find."""
    made = running()
    deliver(made, 1, 2, 3)
    now, parked = 0.0, []
    for _ in range(20):
        under_way = made.ledger.under_way()
        if 2 in under_way:
            actions = made.target_lost("the connection was closed", now)
            parked += [action for action in actions if isinstance(action, ParkAtSource)]
            now = made.due or now
            made.tick(now)
            made.target_up(now)
        elif under_way:
            made.confirmed([(len(under_way), 1, True)], now)
        if parked:
            break
    (aside,) = parked
    assert aside.tag == 2
    header = get_header(aside.parcel[1][19:-1], "x-understudy-parked-reason")
    assert isinstance(header, str)
    assert header.startswith("the connection was closed, 5 times")
    assert made.ledger.under_way() == [3]
    made.confirmed([(1, 0, True)], now)
    assert only(Acknowledge, made.park_done(aside, now)).tag == 3


def test_a_target_that_goes_away_now_and_then_blames_no_message() -> None:
    made = running()
    for tag in range(1, 30):
        deliver(made, tag)
        now = 10.0 * tag
        assert not any(
            isinstance(action, ParkAtSource) for action in made.target_lost("reset", now)
        )
        made.tick(now + 9.0)
        made.target_up(now + 9.0)
        made.confirmed([(1, 0, True)], now + 9.0)
    assert made.parked == 0
    assert made.wants_reading


CLOSED = Closed("channel", 406, "PRECONDITION_FAILED")


def careful(*tags: int) -> Link:
    """One that sends one by one what the target has closed over."""
    made = running()
    deliver(made, *tags)
    made.target_lost("406", 0.0, CLOSED)
    made.tick(0.5)
    assert bodies(made.target_up(0.5)) == [b"%d" % tags[0]]
    return made


def retry(made: Link) -> list[Action]:
    """Wait for the back-off after a refusal."""
    assert Timer.RETRY in made._timers
    return made.tick(made._timers._due[Timer.RETRY])


def test_suspects_that_were_refused_go_one_by_one_and_are_acquitted() -> None:
    made = careful(1, 2, 3)
    made.confirmed([(1, 0, False)], 1.0)
    assert made.shown == "retrying"
    assert bodies(retry(made)) == [b"1"]
    assert bodies(made.confirmed([(2, 0, True)], 2.0)) == [b"2"]
    assert bodies(made.confirmed([(3, 0, True)], 2.0)) == [b"3"]
    made.confirmed([(4, 0, True)], 2.0)
    assert made.shown == "running"
    assert made.wants_reading


def test_one_that_comes_back_while_others_are_refused_is_parked() -> None:
    made = running()
    deliver(made, 1)
    made.confirmed([(1, 0, False)], 0.0)
    assert bodies(retry(made)) == [b"1"]
    made.returned(back(b"1"), 1.0)
    (send,) = made.confirmed([(2, 0, True)], 1.0)
    assert isinstance(send, Send)
    assert send.pieces[0] == encode_publish("", "understudy.parking.b")
    assert made.confirmed([(3, 0, True)], 1.0) == [Acknowledge(1)]
    assert made.shown == "running"


@pytest.mark.parametrize("settle", ["stop", "move", "pause"])
def test_a_link_that_settles_what_is_in_flight_goes_on_one_by_one(settle: str) -> None:
    made = careful(1, 2, 3)
    assert end(made, settle, 1.0) == []
    assert bodies(made.confirmed([(1, 0, True)], 1.0)) == [b"2"]
    assert bodies(made.confirmed([(2, 0, True)], 1.0)) == [b"3"]
    assert made.confirmed([(3, 0, True)], 1.0)[:2] == [Acknowledge(3), CloseSource()]


@pytest.mark.parametrize("settle", ["stop", "move", "pause"])
def test_a_link_that_settles_what_is_in_flight_sends_again_what_is_refused(settle: str) -> None:
    made = running()
    deliver(made, 1, 2, 3)
    assert end(made, settle, 0.0) == []
    refused = [(2, 0, False), (3, 0, False)]
    assert made.confirmed([(1, 0, True), *refused], 0.0) == [Acknowledge(1)]
    assert [action for action in retry(made) if isinstance(action, Send)] != []
    assert bodies(made.confirmed([(4, 0, True)], 0.2)) == [b"3"]
    assert made.confirmed([(5, 0, True)], 0.2)[:2] == [Acknowledge(3), CloseSource()]


def end(made: Link, settle: str, now: float) -> list[Action]:
    """Have it settle what is in flight, for one reason or another."""
    if settle == "pause":
        return made.pause(now, at_once=False)
    return made.stop(now) if settle == "stop" else made.move(now)


def test_what_was_refused_is_tried_at_once_when_there_is_little_time() -> None:
    made = running()
    deliver(made, 1, 2)
    made.confirmed([(2, 1, False)], 0.0)
    assert bodies(made.stop(0.01)) == [b"1"]
    assert bodies(made.confirmed([(3, 0, True)], 0.02)) == [b"2"]


def test_doubts_end_with_the_tags_that_they_are_about() -> None:
    """Each time it is another message that has the first tag."""
    made = running(hold_time=1.0)
    now, actions = 0.0, []
    for _ in range(2 * DOUBTS):
        deliver(made, 1)
        actions += made.target_lost("the network", now)
        actions += made.target_up(now)
        actions += made.target_lost("the network", now)
        actions += made.source_lost("the network", now)
        now += 40.0
        made.tick(now)
        made.target_up(now)
        made.source_up(now)
        assert made.state is State.RUNNING
        assert made.wants_reading
    assert not any(isinstance(action, ParkAtSource) for action in actions)


def test_one_is_doubted_only_while_it_is_alone() -> None:
    """Scenario 34: what its reason tells is what happened."""
    made = running(hold_time=1e6)
    deliver(made, 1, 2, 3)
    alone, now = [], 0.0
    for _ in range(20):
        alone.append(len(made.ledger.under_way()) == 1)
        if any(isinstance(each, ParkAtSource) for each in made.target_lost("gone", now)):
            break
        now += 40.0
        made.tick(now)
        made.target_up(now)
    assert alone == [False] * 2 + [True] * DOUBTS


def test_a_target_that_goes_while_all_is_given_back_anyway_has_nothing_parked() -> None:
    made = careful(1)
    made.pause(1.0, at_once=False)
    assert made.target_lost("406", 1.0, CLOSED) == [CloseSource(), CloseTarget()]
