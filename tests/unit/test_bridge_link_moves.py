"""A link that leaves the broker it has: one that is blocked for too long, or not the preferred."""

from __future__ import annotations

from understudyd.bridge.words import CloseTarget, OpenTarget
from understudyd.testing.linked import EXACT, bodies, deliver, link, running


def test_a_target_that_is_blocked_for_too_long_is_left() -> None:
    made = running(blocked_time=5.0)
    deliver(made, 1)
    made.blocked("low on memory", 10.0)
    assert made.tick(14.9) == []
    assert made.tick(15.0) == [CloseTarget()]
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
