"""Lease timings: the rule that keeps two masters apart is checked when they are set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigurationError
from understudyd.lock.timings import ATTEMPTS, DRIFT, PRESETS, Timings


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_safe_and_leave_time_for_three_attempts(name: str) -> None:
    timings = PRESETS[name]
    assert timings.budget >= timings.renew + ATTEMPTS * timings.attempt


def test_unsafe_timings_are_refused_with_the_rule() -> None:
    """L13, catalogue 6."""
    with pytest.raises(ConfigurationError) as caught:
        Timings(lease=3, renew=1, attempt=0.5, kill=1)
    text = str(caught.value)
    assert "lease x 0.999 - kill - margin must be at least renew + 3 x attempt" in text
    assert "1.9 s is less than 2.5 s" in text
    assert "use a longer lease or shorter attempts" in text


def test_no_broker_dies_in_less_than_this() -> None:
    """Catalogue 6: K is what the inequality rests on."""
    with pytest.raises(ConfigurationError, match=r"kill=0\.001 is shorter than any broker takes"):
        Timings(lease=3, renew=0.7, attempt=0.5, kill=0.001)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "3"])
def test_a_timing_is_a_number_above_zero(value: float) -> None:
    with pytest.raises(ConfigurationError, match="timing renew must be a number of seconds above"):
        Timings(lease=3, renew=value, attempt=0.5, kill=0.4)


@given(
    lease=st.floats(0.1, 100),
    kill=st.floats(0.01, 10),
    rates=st.tuples(st.floats(-DRIFT, DRIFT), st.floats(-DRIFT, DRIFT)),
)
def test_the_broker_is_dead_before_anybody_may_take_over(
    lease: float, kill: float, rates: tuple[float, float]
) -> None:
    """The inequality itself, in real time, for any two clocks within the drift."""
    try:
        timings = Timings(lease=lease, renew=lease / 10, attempt=lease / 20, kill=kill)
    except ConfigurationError:
        return
    holder, standby = 1 + rates[0], 1 + rates[1]
    dead = timings.budget / holder + timings.kill  # seconds after the renewal was sent
    taken = timings.patience / standby  # after the same moment, at the earliest
    assert dead < taken
