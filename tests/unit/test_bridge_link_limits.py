"""How long a link holds what its target does not take, and how often an end may fail."""

from __future__ import annotations

from typing import Any

import pytest

from understudy import parse
from understudyd.bridge.link import Link
from understudyd.bridge.lists import limits_of
from understudyd.bridge.patience import FOR_EVER, Limits, Patience
from understudyd.bridge.settings import FIRST_WINDOW, LONGEST_IN_FLIGHT, ROOM_BACKOFF
from understudyd.bridge.words import (
    Action,
    CloseSource,
    CloseTarget,
    Finished,
    OpenSource,
    OpenTarget,
    State,
)
from understudyd.testing.linked import bodies, deliver, link, running

GIVE_UP = [CloseSource(), CloseTarget()]


def pass_time(made: Link, until: float) -> list[Action]:
    """Tick whenever it wants to."""
    actions = []
    while made.due is not None and made.due <= until:
        actions += made.tick(made.due)
    return actions


def refuse_until(made: Link, number: int, until: float) -> int:
    """The target refuses whatever it is sent, beginning with the publish of this number."""
    made.confirmed([(number, 1, False)], 0.0)
    while made.state is State.RETRYING and made.due is not None and made.due <= until:
        now = made.due
        for _ in bodies(made.tick(now)):
            number += 1
            made.confirmed([(number, 0, False)], now)
    return number


def test_what_is_refused_for_too_long_is_given_back_and_tried_again_with_one() -> None:
    """J05, scenario 33: the target stays open, the source is opened again after a back-off."""
    made = running(hold_time=60.0)
    deliver(made, *range(1, 9))
    number = refuse_until(made, 8, 61.0)
    assert made.shown == "waiting-room"
    assert "target: refused 1 message; so for 60 s" in made.reason
    assert len(made.ledger) == 0
    assert made.due is not None
    waited = made.due - 60.0
    assert ROOM_BACKOFF.initial_ms / 2000 <= waited <= ROOM_BACKOFF.initial_ms / 1000
    assert made.tick(made.due) == [OpenSource(FIRST_WINDOW)]
    made.source_up(62.0)
    deliver(made, 1, now=62.0)
    made.confirmed([(number + 1, 0, True)], 62.0)
    assert made.shown == "running"


def test_a_target_that_takes_a_few_now_and_then_holds_no_window_for_ever() -> None:
    made = running(hold_time=60.0)
    deliver(made, *range(1, 9))
    made.confirmed([(8, 1, False)], 0.0)
    for second in range(1, 60):
        number = 8 + second
        made.tick(float(second))
        made.confirmed([(number, 0, second % 10 == 0)], float(second))
    assert made.shown == "retrying"
    assert CloseSource() in made.tick(60.0)


def test_each_time_in_a_row_it_waits_longer() -> None:
    made = running(hold_time=10.0)
    number, waits = 0, []
    for _ in range(12):
        now = made._now
        deliver(made, 1, now=now)
        made.confirmed([(number + 1, 1, False)], now)
        number += 1
        while made.state is State.RETRYING:
            assert made.due is not None
            now = made.due
            for _ in bodies(made.tick(now)):
                number += 1
                made.confirmed([(number, 0, False)], now)
        assert made.due is not None
        waits.append(made.due - now)
        made.tick(made.due)
        made.source_up(made._now)
    assert waits[0] <= 1.0
    assert waits[-1] > 20.0
    assert max(waits) <= 60.0


def test_no_more_is_with_the_target_than_may_come_twice() -> None:
    """A source may deliver its former window beside the one that it was widened to."""
    made = running(prefetch=10)
    assert len(bodies(deliver(made, *range(1, 16)))) == 10
    made.confirmed([(3, 1, True)], 0.0)
    assert bodies(made.confirmed([(4, 0, True)], 0.0))
    assert made.ledger.exposed <= 10


def test_a_broker_that_waits_for_ever_gets_it_back_once() -> None:
    """Scenario 32: Artemis counts for the message in front, and puts it away after 10 times."""
    made = running(hold_time=10.0)
    deliver(made, 1, 2)
    number = refuse_until(made, 2, 99.0)
    assert made.shown == "waiting-room"
    assert made.due is not None
    made.tick(made.due)
    made.source_up(made._now, is_patient=True)
    deliver(made, 1, now=made._now)
    refuse_until(made, number + 1, 9_999.0)
    assert made.shown == "retrying"


def test_a_target_that_is_blocked_for_too_long_gets_the_source_when_it_is_not() -> None:
    made = running(hold_time=60.0)
    deliver(made, 1, 2)
    made.blocked("low on memory", 5.0)
    assert pass_time(made, 64.9) == []
    assert made.tick(65.0) == [CloseSource()]
    assert (made.shown, made.reason) == ("blocked", "target: low on memory")
    assert pass_time(made, 9999.0) == []
    made.unblocked(10_000.0)
    assert made.shown == "waiting-room"
    assert made.tick(10_000.0) == [OpenSource(FIRST_WINDOW)]


def test_one_that_is_blocked_with_nothing_in_flight_is_read_no_longer_either() -> None:
    """What lies unread in our socket was delivered too."""
    made = running(hold_time=60.0)
    made.blocked("low on memory", 5.0)
    assert made.tick(65.0) == [CloseSource()]
    made.unblocked(70.0)
    made.blocked("low on memory", 70.0)
    assert made.tick(71.0) == []


def test_what_is_lost_again_and_again_counts_from_the_first_time() -> None:
    """A target that takes connections and no messages."""
    made = running(hold_time=60.0, confirm_timeout=25.0)
    deliver(made, 1)
    made.target_lost("reset", 0.0)
    now = 0.0
    while made.state in (State.HOLDING, State.RUNNING):
        assert made.due is not None
        now = made.due
        if OpenTarget() in made.tick(now):
            made.target_up(now)
    assert made.shown == "waiting-target"
    assert now == pytest.approx(60.0)


def test_what_is_sent_again_after_an_outage_gets_its_time_to_be_confirmed() -> None:
    made = running(hold_time=60.0)
    deliver(made, 1)
    made.target_lost("reset", 0.0)
    made.tick(1.0)
    made.target_up(59.0)
    assert made.tick(61.0) == []
    made.confirmed([(1, 0, True)], 61.0)
    deliver(made, 2, now=61.0)
    made.target_lost("reset", 61.0)
    pass_time(made, 120.9)
    assert made.shown == "holding"


def test_nothing_is_in_flight_for_longer_than_a_broker_waits() -> None:
    """Here since the parking queue takes nothing, which others need not suffer from."""
    made = running(confirm_timeout=10_000.0)
    deliver(made, 1)
    pass_time(made, LONGEST_IN_FLIGHT - 60.0)
    assert made.shown == "running"
    assert CloseSource() in pass_time(made, LONGEST_IN_FLIGHT + 60.0)
    assert "900 s" in made.reasons.last_error


def test_an_order_ends_the_wait_for_room() -> None:
    def waiting() -> Link:
        made = running(hold_time=1.0)
        made.blocked("low on memory", 0.0)
        made.tick(1.0)
        return made

    made = waiting()
    assert made.stop(2.0) == [CloseTarget(), Finished()]
    made = waiting()
    made.pause(2.0)
    assert (made.shown, made.due) == ("paused", None)
    made = waiting()
    assert made.move(2.0)[-1] == OpenTarget()
    made = waiting()
    made.target_lost("reset", 2.0)
    assert (made.shown, made.reason) == ("waiting-target", "target: reset")
    made = waiting()
    made.blocked("low on memory", 3.0)
    made.unblocked(4.0)
    made.blocked("low on memory", 4.0)
    assert made.tick(5.0) == []


@pytest.mark.parametrize("end", ["target", "source"])
def test_a_link_gives_up_after_so_many_passes(end: str) -> None:
    """J06."""
    limits: dict[str, Any] = {f"{end}_limits": Limits(first_passes=2, passes=3)}
    made = link(**limits)
    made.start(0.0)
    for turn in range(2):
        assert made.shown != "given-up"
        if end == "source":
            made.target_up(float(turn))
            made.source_lost("refused", float(turn))
        else:
            made.target_lost("refused", float(turn))
        actions = made.tick(turn + 0.9)
    assert actions == []
    assert made.shown == "given-up"
    assert made.reason == f"{end}: refused; gave up after 2 passes"
    assert made.reasons.last_error == made.reason
    assert made.due is None
    assert made.resume(5.0) == [OpenTarget()]
    assert (made.shown, made.reason) == ("waiting-target", "connecting to the target")


def test_what_was_in_flight_goes_back_when_a_link_gives_up() -> None:
    made = running(target_limits=Limits(passes=1))
    deliver(made, 1, 2)
    made.target_lost("reset", 0.0)
    assert made.shown == "holding"
    made.tick(1.0)
    assert made.target_lost("refused", 1.0) == GIVE_UP
    assert made.shown == "given-up"
    assert not made.ledger
    assert made.pause(2.0, "by me") == []
    assert made.shown == "paused"


def test_reconnect_false_ends_with_the_first_loss() -> None:
    made = running(target_limits=Limits(reconnects=False))
    assert made.target_lost("reset", 0.0) == GIVE_UP
    assert made.reason == "target: reset; lost, and reconnect=false"
    assert made.stop(1.0) == [Finished()]


def test_a_source_that_is_lost_while_its_messages_are_held_is_lost_too() -> None:
    made = running(source_limits=Limits(reconnects=False))
    made.target_lost("reset", 0.0)
    assert made.source_lost("cut", 0.0) == GIVE_UP
    assert made.shown == "given-up"
    assert made.reason == "source: cut; lost, and reconnect=false"


def test_what_we_close_ourselves_is_not_lost() -> None:
    made = running(source_limits=Limits(reconnects=False), hold_time=1.0)
    made.target_lost("reset", 0.0)
    made.tick(1.0)
    made.target_up(2.0)
    made.source_lost("refused", 2.0)
    assert made.shown == "waiting-source"


def test_a_drain_goes_before_giving_up() -> None:
    made = running(target_limits=Limits(passes=1, reconnects=False))
    deliver(made, 1)
    made.stop(0.0)
    assert made.target_lost("reset", 0.0)[-1] == Finished()


def test_passes_are_counted_anew_after_a_connection() -> None:
    patience = Patience(Limits(first_passes=2, passes=2))
    assert patience.failed() == ""
    patience.opens()
    patience.connected()
    assert patience.failed() == "", "a loss is no pass"
    patience.opens()
    assert patience.failed() == ""
    patience.opens()
    patience.connected()
    patience.opens()
    assert patience.failed() == ""
    assert patience.failed() == "gave up after 2 passes"
    patience.begin()
    assert patience.failed() == ""


def test_limits_are_those_of_the_uri() -> None:
    assert limits_of(parse("amqp://a")) == FOR_EVER
    assert limits_of(parse("failover:(amqp://a)?maxReconnectAttempts=-1")) == FOR_EVER
    said = "maxReconnectAttempts=3&startupMaxReconnectAttempts=7&reconnect=false"
    assert limits_of(parse(f"failover:(amqp://a)?{said}")) == Limits(7, 3, reconnects=False)
    said = "maxReconnectAttempts=3"
    assert limits_of(parse(f"failover:(amqp://a)?{said}")) == Limits(3, 3)
