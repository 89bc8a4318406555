"""The machine of a link: destination first, nothing settled too early, every wait bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from understudyd.bridge.link import Link
from understudyd.bridge.settings import FIRST_WINDOW
from understudyd.bridge.table import TABLE
from understudyd.bridge.words import (
    Acknowledge,
    Action,
    AskSource,
    Batch,
    CloseSource,
    CloseTarget,
    Finished,
    Happening,
    OpenSource,
    OpenTarget,
    State,
    Step,
    Timer,
    Widen,
)
from understudyd.testing.linked import (
    bodies,
    deliver,
    link,
    parcel,
    running,
)


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


def test_a_target_that_confirms_a_burst_at_its_end_gets_half_a_window_at_a_time() -> None:
    made = link(prefetch=6)
    made.start(0.0)
    made.target_up(0.0, confirms_when_idle=True)
    made.source_up(0.0)
    assert bodies(deliver(made, 1, 2)) == [b"1", b"2"]
    assert bodies(deliver(made, 3, 4, 5, 6)) == [b"3"]
    assert bodies(made.confirmed([(2, 1, True)], 1.0)) == [b"4", b"5"]
    made.source_lost("gone", 1.0)
    made.tick(2.0)
    made.source_up(2.0)
    assert bodies(deliver(made, 1)) == [], "it is still busy with what was forgotten"
    assert bodies(made.confirmed([(3, 1, True)], 2.0)) == [b"1"]


def test_a_window_of_one_is_sent_whole() -> None:
    made = link(prefetch=1)
    made.start(0.0)
    made.target_up(0.0, confirms_when_idle=True)
    made.source_up(0.0)
    assert bodies(deliver(made, 1)) == [b"1"]


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


def test_what_a_source_delivered_whose_opening_failed_is_forgotten() -> None:
    """Its tags are given to other messages by the next."""
    made = link()
    made.start(0.0)
    made.target_up(0.0)
    assert deliver(made, 1, 2, 3) == []
    made.source_lost("reset", 0.0)
    assert (len(made.ledger), made.ledger.size) == (0, 0)
    assert made.tick(1.0) == [OpenSource(FIRST_WINDOW)]
    assert made.source_up(1.0) == []
    assert bodies(made.delivered(Batch([1, 2], [parcel(b"8"), parcel(b"9")]), 1.0)) == [b"8", b"9"]
    assert made.confirmed([(1, 0, True)], 1.0) == [Widen(2), Acknowledge(1)]


def test_what_a_source_delivers_before_it_is_told_to_be_open_is_sent_when_it_is() -> None:
    made = link()
    made.start(0.0)
    made.target_up(0.0)
    deliver(made, 1)
    assert bodies(made.source_up(0.0)) == [b"1"]


CLOSES: dict[str, Callable[[Link], object]] = {
    "silent": lambda made: (made.tick(60.0), made.source_has(5, 60.0)),
    "lost": lambda made: made.source_lost("reset", 60.0),
    "held long enough": lambda made: (made.target_lost("reset", 0.0), made.tick(60.0)),
    "paused": lambda made: made.pause(60.0),
    "moved": lambda made: made.move(60.0),
    "stopped": lambda made: made.stop(60.0),
}


@pytest.mark.parametrize("close", CLOSES.values(), ids=CLOSES.keys())
def test_what_a_source_delivers_that_is_closed_is_not_taken(
    close: Callable[[Link], object],
) -> None:
    made = running()
    close(made)
    assert not made.takes_deliveries
    assert deliver(made, 1, 2, now=60.0) == []
    assert (len(made.ledger), made.ledger.acknowledgeable) == (0, 0)


def test_a_source_that_was_lost_while_it_was_opened_is_not_up() -> None:
    made = link()
    made.start(0.0)
    made.target_up(0.0)
    made.source_lost("reset", 0.0)
    assert made.source_up(0.0) == []
    assert made.shown == "waiting-source"
    assert made.tick(0.1) == [OpenSource(FIRST_WINDOW)]


def test_a_source_is_opened_once_though_a_rest_was_to_end_meanwhile() -> None:
    made = link()
    made.start(0.0)
    made.target_up(0.0)
    made.source_lost("reset", 0.0)
    made.target_lost("reset", 0.0)
    made._timers.set(Timer.SOURCE, 5.0)
    made.tick(0.1)
    assert made.target_up(0.1) == [OpenSource(FIRST_WINDOW)]
    assert made.tick(5.0) == []


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
    assert made.confirmed([(3, 0, True)], 0.1) == [Widen(2), Acknowledge(1)]


def test_a_blocked_target_stops_the_reading_and_no_clock_runs() -> None:
    made = running(hold_time=1000.0)
    deliver(made, 1)
    made.blocked("low on memory", 0.0)
    assert made.shown == "blocked"
    assert not made.wants_reading
    made.tick(99.0)
    assert made.shown == "blocked"
    made.unblocked(100.0)
    assert made.wants_reading
    made.tick(129.9)
    assert made.shown == "running"
    assert CloseTarget(has_failed=True) in made.tick(130.0)


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
    assert CloseTarget(has_failed=True) in made.tick(41.0)
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
    assert CloseTarget(has_failed=True) in made.tick(130.0)


def test_a_source_that_has_messages_and_delivers_none_is_opened_anew() -> None:
    made = running(watch_time=60.0)
    assert made.tick(60.0) == [AskSource()]
    assert made.source_has(0, 60.1) == []
    assert made.shown == "running"
    assert made.tick(120.0) == [AskSource()]
    assert made.source_has(7, 120.1) == [CloseSource()]
    assert made.shown == "waiting-source"
    assert made.reason == "source: 7 messages ready, none came for 60 s"
    assert made.tick(130.0) == [OpenSource(FIRST_WINDOW)]


def test_a_source_is_not_asked_while_messages_come_or_nothing_is_read() -> None:
    made = running(watch_time=60.0, confirm_timeout=1000.0, hold_time=1000.0)
    deliver(made, 1, now=50.0)
    made.confirmed([(1, 0, True)], 50.0)
    assert made.tick(60.0) == []
    assert made.tick(120.0) == [AskSource()]
    deliver(made, 2, now=120.1)
    assert made.source_has(5, 120.2) == []
    made.confirmed([(2, 0, True)], 120.2)
    made.blocked("memory", 0.0)
    assert made.tick(600.0) == []


def test_a_source_that_was_not_read_for_long_is_not_asked_at_once() -> None:
    made = running(watch_time=60.0)
    made.blocked("memory", 1.0)
    made.unblocked(119.9)
    assert made.tick(120.0) == []
    assert made.tick(180.0) == [AskSource()]


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


LAST = {Step.TARGET_LATER, Step.SOURCE_LATER}


def test_every_step_is_known_and_every_state_can_be_left() -> None:
    assert set(link()._steps) == set(Step)
    for (state, _), (_, steps) in TABLE.items():
        assert state is not State.STOPPED
        assert not LAST & set(steps[:-1]), "what may give up is the last step"
    for state in set(State) - {State.STOPPED}:
        stops = (state, Happening.STOP) in TABLE or (state, Happening.SETTLED) in TABLE
        assert stops, f"{state} cannot be stopped"
    happenings = {happening for _, happening in TABLE}
    given_up = {state for state, happening in TABLE if happening is Happening.GIVE_UP}
    assert given_up == {state for state, steps in TABLE.values() if LAST & set(steps)}
    for timer in Timer:
        assert timer.value in happenings or timer.value in set(Step)
