"""The rate of a bridge, by the clock of the test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.link import Link
from understudyd.bridge.pace import Pace
from understudyd.bridge.words import Timer
from understudyd.testing.linked import bodies, deliver, link


def paced(rate: float) -> Link:
    """A link that runs."""
    pace = Pace(rate)
    made = link(prefetch=100, pace=pace)
    for tell in (made.start, made.target_up, made.source_up):
        tell(0.0)
    return made


@pytest.mark.parametrize(("rate", "window"), [(1000.0, 100), (10.0, 1), (0.1, 1), (25.0, 2)])
def test_the_window_is_what_a_tenth_of_a_second_brings(rate: float, window: int) -> None:
    assert Pace(rate).window == window


def test_a_burst_is_as_large_as_the_window_and_then_time_is_paid() -> None:
    pace = Pace(100.0)
    assert pace.take(10, 5.0) == 0.0
    assert pace.take(1, 5.0) == pytest.approx(0.01)
    assert pace.take(9, 5.01) == pytest.approx(0.09)
    assert pace.take(10, 60.0) == 0.0, "no more than a window was saved up"
    assert pace.take(1, 60.0) == pytest.approx(0.01)


def test_a_clock_that_stands_still_or_goes_back_earns_nothing() -> None:
    pace = Pace(10.0)
    pace.take(1, 5.0)
    assert pace.take(1, 4.0) == pytest.approx(0.1)


@given(
    st.sampled_from([0.5, 3.0, 1000.0]),
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3)), min_size=1, max_size=50),
)
def test_never_more_than_the_rate_and_a_window(
    rate: float, batches: list[tuple[int, float]]
) -> None:
    """Scenario 69: whoever waits as told takes no more than time and one batch allow."""
    pace = Pace(rate)
    now = taken = 0.0
    for count, idle in batches:
        taken += count
        wait = pace.take(count, now)
        now += wait + idle
        assert taken <= pace.window + rate * now + 1e-6


def test_a_link_sends_no_more_until_its_debt_is_paid() -> None:
    """Scenario 69: the order is kept, and what is sent again is not charged again."""
    made = paced(20.0)
    assert bodies(deliver(made, *range(1, 6))) == [b"1", b"2", b"3"]
    assert bodies(made.confirmed([(1, 0, True)], 0.01)) == []
    made.target_lost("gone", 0.01)
    assert bodies(made.target_up(0.02)) == [b"2", b"3"]
    assert bodies(made.tick(0.04)) == []
    assert bodies(made.tick(0.05)) == [b"4"]
    assert bodies(made.tick(0.1)) == [b"5"]


def test_what_waits_for_its_turn_is_not_sent_when_the_source_is_lost() -> None:
    """It is delivered again, so that a cut doubles what was sent, and no whole window."""
    made = paced(80.0)
    sent = bodies(deliver(made, *range(1, 25)))
    assert made.wants_reading, "else it would not be seen that the source is lost"
    made.source_lost("cut", 0.0)
    for now in (0.02, 0.04, 0.06):
        assert bodies(made.tick(now)) == []
    made.tick(0.1)
    made.source_up(0.1)
    sent += bodies(deliver(made, *range(1, 25), now=0.1))
    now = 0.1
    while len(set(sent)) < 24:
        assert made.due is not None
        now = max(now, made.due)
        sent += bodies(made.tick(now))
    assert len(sent) - len(set(sent)) == 10


def test_what_was_saved_up_goes_at_once_and_then_a_part_of_the_window_at_a_time() -> None:
    pace = Pace(400.0)
    assert pace.allows(0.0) == 50
    assert pace.take(50, 0.0) == pytest.approx(0.025)
    assert pace.allows(0.0) == 10
    assert pace.allows(9.0) == 50


def test_a_link_without_a_rate_has_no_timer_for_it() -> None:
    made = link()
    made.start(0.0)
    made.target_up(0.0)
    made.source_up(0.0)
    deliver(made, *range(1, 17))
    assert Timer.PACE not in made._timers


def test_two_links_share_one_rate() -> None:
    pace = Pace(10.0)
    one, other = link(pace=pace), link(pace=pace)
    for made in (one, other):
        made.start(0.0)
        made.target_up(0.0)
        made.source_up(0.0)
    assert bodies(deliver(one, 1, 2, 3)) == [b"1", b"2"]
    assert bodies(deliver(other, 1, 2)) == [b"1"]
    for now, first, second in [(0.09, [], []), (0.1, [b"3"], []), (0.2, [], [b"2"])]:
        assert (bodies(one.tick(now)), bodies(other.tick(now))) == (first, second)
