"""A link that leaves the broker it has: one that is blocked for too long, or not the preferred."""

from __future__ import annotations

import pytest

from understudyd.bridge.homing import STABLE, Steadiness
from understudyd.bridge.settings import FIRST_WINDOW
from understudyd.bridge.words import (
    Acknowledge,
    CloseSource,
    CloseTarget,
    Finished,
    OpenSource,
    OpenTarget,
)
from understudyd.testing.linked import EXACT, bodies, deliver, link, running


def test_a_target_that_is_blocked_for_too_long_is_left() -> None:
    made = running(blocked_time=5.0)
    deliver(made, 1)
    made.blocked("low on memory", 10.0)
    assert made.tick(14.9) == []
    assert made.tick(15.0) == [CloseTarget(has_failed=True)]
    assert made.shown == "holding"
    assert made.reason == "target: blocked for 5 s: low on memory"
    assert bodies(made.target_up(16.0)) == [b"1"]
    assert made.shown == "running"


def test_one_that_is_unblocked_in_time_or_may_be_blocked_for_ever_is_kept() -> None:
    made = running(blocked_time=5.0)
    made.blocked("low on memory", 10.0)
    made.unblocked(14.0)
    made.blocked("low on memory", 14.5)
    assert made.tick(15.0) == []
    patient = running()
    patient.blocked("low on memory", 10.0)
    assert patient.tick(50.0) == []
    assert patient.shown == "blocked"


def test_each_end_has_the_delays_of_its_own_uri() -> None:
    made = link(target_backoff=EXACT, source_backoff=type(EXACT)(7_000.0, 7_000.0, jitter=0.0))
    made.start(0.0)
    made.target_lost("refused", 0.0)
    assert made.tick(0.1) == [OpenTarget()]
    made.target_up(0.1)
    made.source_lost("refused", 0.1)
    assert made.due == 7.1


def test_what_kept_a_target_is_over_with_its_connection() -> None:
    made = running(blocked_time=30.0)
    deliver(made, 1)
    made.blocked("low on memory", 0.0)
    made.congested(True, 0.0)
    made.target_lost("reset", 5.0)
    assert made.tick(5.1) == [OpenTarget()]
    assert made.tick(30.0) == [], "the opening is not given up"
    assert made.reason == "target: reset"
    assert bodies(made.target_up(31.0)) == [b"1"]
    assert (made.shown, made.wants_reading) == ("running", True)


def test_one_that_is_blocked_when_it_is_opened_is_known_to_be() -> None:
    made = link(blocked_time=30.0)
    made.start(0.0)
    made.blocked("low on memory", 0.0)
    made.target_up(0.1)
    made.source_up(0.2)
    assert made.shown == "blocked"
    assert made.tick(30.0) == [CloseTarget(has_failed=True)]


MOVED = [CloseSource(), CloseTarget(), OpenTarget()]


def test_a_move_settles_first_and_opens_both_ends_anew() -> None:
    """Scenario 61: nothing is doubled by going back to a preferred broker."""
    made = running()
    deliver(made, 1, 2)
    assert made.move(1.0) == []
    assert made.shown == "returning"
    assert not made.wants_reading
    assert deliver(made, 3, now=1.0) == []
    assert made.confirmed([(2, 1, True)], 1.1) == [Acknowledge(2), *MOVED]
    assert made.shown == "waiting-target"
    assert made.target_up(1.2) == [OpenSource(FIRST_WINDOW)]
    made.source_up(1.3)
    assert made.shown == "running"
    assert made.reason == ""


def test_a_move_away_from_a_target_that_is_full_gives_back_what_it_refuses() -> None:
    made = running(drain_time=2.0)
    deliver(made, 1)
    made.confirmed([(1, 0, False)], 1.0)
    assert bodies(made.move(1.0)) == [b"1"]
    assert made.shown == "returning"
    made.confirmed([(2, 0, False)], 1.1)
    assert made.tick(3.0)[-3:] == MOVED
    assert not made.ledger


def test_a_move_with_nothing_in_flight_is_made_at_once() -> None:
    assert running().move(1.0) == MOVED


def test_a_move_waits_no_longer_than_a_drain_may() -> None:
    made = running(drain_time=2.0)
    deliver(made, 1)
    made.move(1.0)
    assert made.tick(3.0) == MOVED
    assert len(made.ledger) == 0


@pytest.mark.parametrize("lost", ["target", "source"])
def test_an_end_that_is_lost_meanwhile_is_the_move(lost: str) -> None:
    made = running()
    deliver(made, 1)
    made.move(1.0)
    told = made.target_lost if lost == "target" else made.source_lost
    assert told("reset", 1.1) == MOVED


def test_stopping_and_pausing_go_before_a_move() -> None:
    made = running()
    deliver(made, 1)
    made.move(1.0)
    made.stop(1.1)
    assert made.confirmed([(1, 1, True)], 1.2)[-1] == Finished()
    paused = running()
    deliver(paused, 1)
    paused.move(1.0)
    paused.pause(1.1)
    assert paused.shown == "paused"


def test_one_that_does_not_run_has_no_need_to_move() -> None:
    made = link()
    made.start(0.0)
    assert made.move(1.0) == []
    assert made.shown == "waiting-target"


def test_a_broker_that_comes_and_goes_is_not_returned_to() -> None:
    """Scenario 61: not while in outage flapping."""
    seen = Steadiness()
    assert not seen.saw(True, 0.0)
    assert not seen.saw(True, STABLE - 0.1)
    assert not seen.saw(False, STABLE)
    assert not seen.saw(True, STABLE + 0.1)
    assert not seen.saw(True, 2 * STABLE)
    assert seen.saw(True, 2 * STABLE + 0.1)
