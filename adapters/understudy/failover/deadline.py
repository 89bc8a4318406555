"""A point in time after which nobody waits any longer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["NEVER", "Deadline", "DeadlinePassed"]


class DeadlinePassed(Exception):
    """The deadline of this call has passed."""


class Deadline:
    """``seconds`` from now on the monotonic clock; None = never."""

    __slots__ = ("_at", "_clock", "seconds")

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._at = math.inf if seconds is None else clock() + seconds

    @property
    def moment(self) -> float:
        """The moment on the monotonic clock; infinity for never."""
        return self._at

    def remaining(self) -> float:
        """Seconds left, never below 0; infinity for never."""
        return max(self._at - self._clock(), 0.0)

    def timeout(self) -> float | None:
        """`remaining` as the sockets and locks of the standard library want it."""
        left = self.remaining()
        return None if left == math.inf else left

    def check(self) -> None:
        """Raise DeadlinePassed when it has passed."""
        if self.remaining() <= 0:
            raise DeadlinePassed


NEVER = Deadline(None)
