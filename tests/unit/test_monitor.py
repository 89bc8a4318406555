from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from understudy.failover import monitor as monitor_module
from understudy.failover.monitor import Monitor
from understudy.testing import FakeClock, wait_until

LONG = 30.0  # s


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    """One for all tests: its thread has no end."""
    return Monitor()


class Heart:
    """A watched connection whose beats the test counts and answers."""

    def __init__(self, heartbeat: float = 0.008) -> None:
        self.heartbeat = heartbeat
        self.beats = 0
        self.reason: str | None = None
        self.raises = False

    def beat(self, now: float) -> str | None:
        self.beats += 1
        if self.raises:
            raise RuntimeError("a bug")
        return self.reason


def never(heart: Heart, reason: str) -> None:
    raise AssertionError(reason)


def beats_on(heart: Heart) -> Callable[[], bool]:
    seen = heart.beats
    return lambda: heart.beats > seen + 1


def test_a_dead_peer_is_told_once_and_watched_no_more(monitor: Monitor) -> None:
    deaths: list[str] = []
    dead, alive = Heart(), Heart()
    monitor.watch(dead, lambda heart, reason: deaths.append(reason))
    monitor.watch(alive, never)
    assert wait_until(beats_on(dead), LONG)
    dead.reason = "no sign of life"
    assert wait_until(lambda: deaths, LONG)
    assert wait_until(beats_on(alive), LONG)
    assert deaths == ["no sign of life"]
    monitor.forget(alive)


def test_what_is_forgotten_or_gone_is_not_watched(monitor: Monitor) -> None:
    forgotten, gone, alive = Heart(), Heart(), Heart()
    for heart in (forgotten, gone, alive):
        monitor.watch(heart, never)
    monitor.forget(forgotten)
    monitor.forget(Heart())
    del gone, heart
    forgotten.reason = "dead"
    assert wait_until(beats_on(alive), LONG)
    gc.collect()
    assert wait_until(lambda: list(monitor._watched) == [alive], LONG)
    monitor.forget(alive)


def test_without_heartbeat_there_is_nothing_to_watch(monitor: Monitor) -> None:
    quiet, alive = Heart(heartbeat=0), Heart()
    monitor.watch(quiet, never)
    monitor.watch(alive, never)
    assert wait_until(beats_on(alive), LONG)
    assert quiet.beats == 0
    monitor.forget(alive)


def test_a_bug_in_one_beat_stops_no_other(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    bad, alive = Heart(), Heart()
    bad.raises = True
    monitor.watch(bad, never)
    monitor.watch(alive, never)
    assert wait_until(lambda: bad.beats == 1, LONG)
    assert wait_until(beats_on(alive), LONG)
    assert bad.beats == 1
    assert "a bug in understudy" in caplog.text
    monitor.forget(alive)


def test_alarms_ring_in_the_order_of_their_time(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()  # they are set at one and the same moment
    monkeypatch.setattr(monitor_module, "time", SimpleNamespace(monotonic=clock.now))
    rung: list[str] = []
    last = threading.Event()
    with (
        monitor.alarm(3600, lambda: rung.append("late")),
        monitor.alarm(0.02, last.set),
        monitor.alarm(0.01, lambda: rung.append("second")),
        monitor.alarm(0, lambda: rung.append("first")),
    ):
        clock.advance(1)
        assert last.wait(LONG)
    assert rung == ["first", "second"]


def test_an_alarm_whose_block_has_ended_does_not_ring(monitor: Monitor) -> None:
    rung: list[str] = []
    for _ in range(50):
        with monitor.alarm(3600, lambda: rung.append("too late")):
            pass
    assert monitor._alarms == []
    assert rung == []


def test_an_alarm_that_fails_stops_no_other(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    rung = threading.Event()

    def fail() -> None:
        raise RuntimeError("a bug")

    with monitor.alarm(0, fail), monitor.alarm(0.001, rung.set):
        assert rung.wait(LONG)
    assert "an alarm failed" in caplog.text
