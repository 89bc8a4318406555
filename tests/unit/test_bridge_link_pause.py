"""A link that is paused, drained and let go on; and why it is in its state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from understudyd.bridge.link import Link
from understudyd.bridge.settings import FIRST_WINDOW
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.words import (
    Acknowledge,
    CloseSource,
    CloseTarget,
    OpenSource,
    OpenTarget,
    Widen,
)
from understudyd.testing.linked import bodies, deliver, link, running

REST = [CloseSource(), CloseTarget()]


def waiting_target() -> Link:
    made = link()
    made.start(0.0)
    made.target_lost("refused", 0.0)
    return made


def waiting_source() -> Link:
    made = link()
    made.start(0.0)
    made.target_up(0.0)
    return made


def retrying() -> Link:
    made = running()
    deliver(made, 1)
    made.confirmed([(1, 0, False)], 0.0)
    assert made.shown == "retrying"
    return made


def holding() -> Link:
    made = running()
    deliver(made, 1)
    made.target_lost("gone", 0.0)
    assert made.shown == "holding"
    return made


def pausing() -> Link:
    made = running()
    deliver(made, 1)
    made.pause(0.0, "by me", at_once=False)
    assert made.shown == "pausing"
    return made


STATES = [waiting_target, waiting_source, running, retrying, holding, pausing]


@pytest.mark.parametrize("make", STATES)
def test_a_pause_gives_everything_back_from_any_state(make: Callable[[], Link]) -> None:
    made = make()
    assert made.pause(1.0, "by me") == REST
    assert (made.shown, made.reason) == ("paused", "by me")
    assert not made.ledger
    assert made.due is None
    assert made.tick(999.0) == []
    assert made.resume(1000.0) == [OpenTarget()]
    assert (made.shown, made.reason) == ("waiting-target", "connecting to the target")
    assert made.target_up(1000.0) == [OpenSource(FIRST_WINDOW)]
    assert made.reason == "connecting to the source"
    made.source_up(1000.0)
    assert bodies(deliver(made, 1)) == [b"1"]
    assert made.confirmed([(1, 0, True)], 1000.0) == [Widen(2), Acknowledge(1)]


def test_a_pause_acknowledges_what_the_target_has() -> None:
    made = running()
    made.window = 400
    deliver(made, 1, 2)
    made.confirmed([(1, 0, True)], 0.0)
    assert made.pause(0.0) == [Acknowledge(1), *REST]
    assert made.reason == "paused"


def test_a_drain_settles_what_is_in_flight_first() -> None:
    made = running()
    deliver(made, 1, 2)
    assert made.pause(0.0, "by me", at_once=False) == []
    assert (made.shown, made.reason) == ("pausing", "settling what is in flight")
    assert not made.wants_reading
    assert deliver(made, 3) == []
    assert made.confirmed([(2, 1, True)], 0.0) == [Acknowledge(2), *REST]
    assert (made.shown, made.reason) == ("paused", "by me")


def test_a_drain_of_nothing_is_a_pause() -> None:
    assert running().pause(0.0, at_once=False) == REST


@pytest.mark.parametrize(
    "happens",
    [
        lambda made: made.tick(10.0),
        lambda made: made.target_lost("gone", 1.0),
        lambda made: made.source_lost("gone", 1.0),
    ],
    ids=["it takes too long", "the target is lost", "the source is lost"],
)
def test_a_drain_that_cannot_be_done_is_a_pause(happens: Callable[[Link], object]) -> None:
    made = pausing()
    assert happens(made) == REST
    assert (made.shown, made.reason) == ("paused", "by me")


def test_what_is_let_go_on_while_it_drains_begins_anew() -> None:
    """What came meanwhile was not taken; a later acknowledgement must not stand for it."""
    made = pausing()
    deliver(made, 2)
    assert made.resume(1.0) == [*REST, OpenTarget()]
    assert made.shown == "waiting-target"


def test_one_that_was_not_started_can_rest() -> None:
    made = link()
    assert made.pause(0.0, "as before") == []
    assert (made.shown, made.reason) == ("paused", "as before")
    assert made.resume(0.0) == [OpenTarget()]


def test_one_that_rests_hears_of_no_loss_and_can_be_stopped() -> None:
    made = running()
    made.pause(0.0, "by me")
    assert made.target_lost("gone", 1.0, Closed("connection", 320, "CONNECTION_FORCED")) == []
    assert made.source_lost("gone", 1.0) == []
    assert made.source_has(7, 99.0) == []
    assert made.reason == "by me"
    made.stop(2.0)
    assert made.shown == "stopped"
    assert made.resume(3.0) == []


def test_a_drain_on_stop_goes_before_one_on_request() -> None:
    made = pausing()
    made.stop(0.0)
    assert made.shown == "draining"
    made.confirmed([(1, 0, True)], 0.0)
    assert made.shown == "stopped"


def test_the_reason_is_that_of_the_end_that_is_waited_for() -> None:
    made = link()
    assert made.reason == "not started yet"
    made.start(0.0)
    made.target_lost("wrong password", 0.0)
    assert made.reason == "target: wrong password"
    made.tick(1.0)
    assert made.reason == "target: wrong password"
    made.target_up(1.0)
    assert made.reason == "connecting to the source"
    made.source_lost("no such queue", 1.0)
    assert made.reason == "source: no such queue"
    made.tick(1.5)
    made.source_up(2.0)
    assert (made.reason, made.reasons.last_error) == ("", "source: no such queue")
    deliver(made, 1, now=2.0)
    made.target_lost("cut", 2.0)
    made.source_lost("cut too", 2.0)
    assert (made.shown, made.reason) == ("waiting-target", "target: cut")


def test_what_hinders_one_that_runs_is_said() -> None:
    made = running()
    made.blocked("low on memory", 0.0)
    assert (made.shown, made.reason) == ("blocked", "target: low on memory")
    made.unblocked(0.0)
    assert made.reason == ""
    deliver(made, 1, 2)
    made.target_lost("406 too large", 0.0, Closed("channel", 406, "too large"))
    made.target_up(0.1)
    assert made.shown == "running"
    assert made.reason.startswith("sending one by one")
    made.target_lost("406 too large", 0.2, Closed("channel", 406, "too large"))
    made.target_up(0.3)
    made.park_failed("access refused", 0.4)
    assert "one by one" in made.reason
    made.confirmed([(1, 0, True)], 0.5)
    assert made.reason == "parking at the source: access refused"


def test_what_was_to_be_parked_when_it_was_paused_comes_again() -> None:
    made = running()
    deliver(made, 1)
    closed = Closed("channel", 406, "too large")
    for moment in (1.0, 2.0):
        made.target_lost("406 too large", moment, closed)
        made.target_up(moment + 0.1)
    made.pause(3.0, "by me")
    assert made.park_failed("access refused", 3.1) == []
    assert made.due is None
    made.resume(4.0)
    made.target_up(4.0)
    made.source_up(4.0)
    assert (made.shown, made.reason) == ("running", "")
