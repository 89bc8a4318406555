from __future__ import annotations

import math

import pytest

from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.testing import FakeClock


def test_time_runs_out_once_and_stays_out() -> None:
    clock = FakeClock(start=100.0)
    deadline = Deadline(2.0, clock.now)
    assert (deadline.seconds, deadline.moment) == (2.0, 102.0)
    clock.advance(1.5)
    assert deadline.remaining() == deadline.timeout() == 0.5
    deadline.check()
    clock.advance(0.5)
    assert deadline.remaining() == deadline.timeout() == 0.0
    with pytest.raises(DeadlinePassed):
        deadline.check()
    clock.advance(10.0)
    assert deadline.remaining() == 0.0


def test_none_is_never() -> None:
    clock = FakeClock()
    deadline = Deadline(None, clock.now)
    clock.advance(1e9)
    assert deadline.remaining() == deadline.moment == math.inf
    assert deadline.timeout() is None
    deadline.check()


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_no_time_at_all_has_passed_already(seconds: float) -> None:
    with pytest.raises(DeadlinePassed):
        Deadline(seconds, FakeClock().now).check()
