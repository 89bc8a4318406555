"""A clock that moves only when told to, and a wait for things that other threads do."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["FakeClock", "wait_until"]


class FakeClock:
    """A monotonic clock for tests. Pass ``clock.now`` wherever ``time.monotonic`` would go."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __repr__(self) -> str:
        return f"<FakeClock at {self._now:g}>"

    def now(self) -> float:
        """Seconds; never goes back."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let ``seconds`` pass; returns the new time."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds:g} seconds")
        self._now += seconds
        return self._now


PATIENCE = 30.0  # s; far more than any machine needs


def wait_until(predicate: Callable[[], object], timeout: float = PATIENCE) -> bool:
    """Ask ``predicate`` until it is true; False when ``timeout`` seconds were not enough."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)  # short beside any network step, long beside a thread switch
    return True
