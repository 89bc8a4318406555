"""Messages past their hop limit in a queue that its broker could not filter: back to the tail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from understudyd.bridge.ledger import Parcel
from understudyd.bridge.link import Link
from understudyd.bridge.settings import FIRST_WINDOW
from understudyd.bridge.stays import RATE, SHORTEST
from understudyd.bridge.words import (
    Acknowledge,
    Action,
    Batch,
    CloseSource,
    OpenSource,
    ParkAtSource,
    Rest,
    Widen,
)
from understudyd.testing.linked import WINDOW, bodies, deliver, only, parcel, running


def stay(made: Link, *tags: int, beside: tuple[int, ...] = (), now: float = 0.0) -> list[Action]:
    """A batch with some that stay."""
    every = sorted((*tags, *beside))
    parcels: list[Parcel] = [parcel(b"%d" % tag) for tag in every]
    return made.delivered(Batch(every, parcels, tags, tags), now, every[-1])


def put_all(made: Link, actions: list[Action], now: float = 0.0) -> list[Action]:
    """Whatever is to be put into a queue of the source arrives there; what is asked for then."""
    rest: list[Action] = [each for each in actions if not isinstance(each, ParkAtSource)]
    for action in actions:
        if isinstance(action, ParkAtSource):
            rest += put_all(made, made.park_done(action, now), now)
    return rest


def test_one_goes_back_and_the_source_delivers_nothing_meanwhile() -> None:
    made = running()
    actions = stay(made, 1)
    assert actions[0] == Rest()
    assert only(ParkAtSource, actions).tag == 1
    assert put_all(made, actions) == [Rest(), Acknowledge(1)]
    assert (made.forwarded, made.parked) == (0, 0)
    assert made.shown == "holding"
    assert "its broker's own consumers" in made.reason
    assert made.tick(SHORTEST / 2) == []
    assert made.tick(SHORTEST) == [Widen(WINDOW)]
    assert made.shown == "holding"


def test_what_may_be_wrong_is_told_beside_it() -> None:
    made = running(hint="; or both ends are one broker")
    put_all(made, stay(made, 1))
    assert made.reason.endswith("own consumers; or both ends are one broker")


def test_where_none_is_left_the_link_runs() -> None:
    made = running()
    put_all(made, stay(made, 1))
    made.tick(SHORTEST)
    made.tick(2 * SHORTEST)
    assert made.shown == "running"
    assert made.reason == ""
    assert bodies(deliver(made, 2)) == [b"2"]


def rounds(made: Link, count: int, size: int) -> Iterator[float]:
    """The lengths of rests when nothing but those that stay is there."""
    now, tag = 0.0, 1
    for _ in range(count):
        tags = range(tag, tag + min(size, made.window))
        tag = tags.stop
        put_all(made, stay(made, *tags, now=now), now)
        assert made.due is not None
        yield made.due - now
        now = made.due
        again = made.tick(now)
        assert again == [Widen(made.window)]


@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_they_go_back_at_a_bounded_rate(size: int) -> None:
    """The processor is idle while only such messages are there."""
    made = running()
    waits = list(rounds(made, 20, size))
    went = made._stays.went
    assert min(waits) >= SHORTEST
    assert went / sum(waits) <= RATE
    assert made.window < 2 * RATE, "no more is kept from others than goes back in a moment"
    if size == 10_000:
        assert went / sum(waits) > RATE / 2


def test_what_can_be_forwarded_goes_on_between_them_without_a_rest() -> None:
    made = running()
    actions = stay(made, 2, beside=(1, 3))
    assert bodies(actions) == [b"1", b"3"]
    assert put_all(made, actions) == [a for a in actions if not isinstance(a, ParkAtSource)]
    assert Acknowledge(3) in made.confirmed([(2, 1, True)], 0.0)
    assert made.shown == "running"
    assert made.due == 0.0
    assert made.tick(0.0) == [Widen(WINDOW)]


def test_the_window_does_not_grow_while_the_source_rests() -> None:
    made = running()
    every = range(1, WINDOW + 2)
    actions = stay(made, 1, beside=tuple(every)[1:])
    put_all(made, actions)
    confirmed = made.confirmed([(WINDOW, 1, True)], 0.0)
    assert [action for action in confirmed if isinstance(action, Widen)] == []
    assert made.tick(0.0) == [Widen(2 * WINDOW)]


def test_one_that_the_source_does_not_take_is_not_settled_and_tried_again() -> None:
    made = running()
    actions = stay(made, 1, 2)
    assert made.park_failed("an alarm", 0.0) == []
    assert len(made.ledger) == 2
    again = made.tick(0.1)
    assert put_all(made, again, 0.1) == [Acknowledge(2)]
    assert len(only(ParkAtSource, actions).parcel) == 4


def test_a_lost_source_has_them_all_and_begins_anew() -> None:
    made = running()
    stay(made, 1, 2)
    made.source_lost("reset", 0.0)
    assert made.tick(0.1) == [OpenSource(FIRST_WINDOW)]
    made.source_up(0.1)
    assert made.shown == "running"
    actions = stay(made, 1, now=0.1)
    assert actions[0] == Rest()


def test_a_source_that_cannot_rest_gets_no_acknowledgement_and_is_closed_for_the_rest() -> None:
    """STOMP: a subscription cannot be stopped and kept."""
    made = running(can_rest=False)
    actions = stay(made, 1, 2, beside=(3,))
    assert Rest() not in actions
    assert bodies(actions) == [b"3"]
    assert put_all(made, actions) == [a for a in actions if not isinstance(a, ParkAtSource)]
    assert made.confirmed([(1, 0, True)], 0.0) == [Acknowledge(3), CloseSource()]
    assert made.shown == "holding"
    assert "own consumers" in made.reason
    assert made.tick(SHORTEST / 2) == []
    assert made.tick(SHORTEST) == [OpenSource(FIRST_WINDOW)]
    assert made.source_up(SHORTEST) == []
    assert made.shown == "holding"
    made.tick(2 * SHORTEST)
    assert made.shown == "running"


def test_a_source_that_cannot_rest_goes_on_where_more_went_on_than_back() -> None:
    made = running(can_rest=False)
    actions = stay(made, 1, beside=(2, 3))
    put_all(made, actions)
    assert made.confirmed([(2, 1, True)], 0.0) == [Acknowledge(3)]
    assert made.shown == "running"
    assert made.state.value == "running"


def test_a_source_that_cannot_rest_and_is_lost_while_closed_is_shown_as_lost() -> None:
    made = running(can_rest=False)
    put_all(made, stay(made, 1))
    made.tick(SHORTEST)
    made.source_lost("refused", SHORTEST)
    assert made.shown == "waiting-source"
    assert made.reason == "source: refused"


def test_a_pause_while_resting_is_over_with_all_of_it() -> None:
    made = running()
    stay(made, 1)
    assert CloseSource() in made.pause(0.0)
    assert made.shown == "paused"
    assert made.tick(10.0) == []


def test_a_source_that_rests_for_long_is_not_taken_for_one_that_is_broken() -> None:
    made = running(prefetch=1000, watch_time=2.0)
    put_all(made, stay(made, *range(1, 5 * RATE + 1)))
    assert made.tick(2.0) == []
    assert made.source_has(500, 2.0) == []
    made.tick(4.0)
    assert only(Widen, made.tick(5.0)) == Widen(made.window)
    assert made.source_has(500, 5.1) == [], "it has just been told to deliver"
    assert made.shown == "holding"
