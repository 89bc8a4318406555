"""What a link waits for: when each timer is due, and how often in a row each was needed. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from understudy.core.backoff import Backoff
from understudyd.bridge.words import Timer

__all__ = ["Timers"]


class Timers:
    """Moments are those of the clock that the caller has."""

    def __init__(
        self, backoff: Backoff, rng: Random, own: Mapping[Timer, Backoff] | None = None
    ) -> None:
        """``own`` has those of single timers."""
        self._backoffs = {**dict.fromkeys(Timer, backoff), **(own or {})}
        self._rng = rng
        self._due: dict[Timer, float] = {}
        self._failures = dict.fromkeys(Timer, 0)  # in a row

    def __contains__(self, timer: Timer) -> bool:
        return timer in self._due

    @property
    def due(self) -> float | None:
        """The next moment; None: nothing runs."""
        return min(self._due.values(), default=None)

    @property
    def failing(self) -> list[Timer]:
        """Those in a row that is not over."""
        return [timer for timer, failures in self._failures.items() if failures]

    def set(self, timer: Timer, due: float) -> None:
        self._due[timer] = due

    def start(self, timer: Timer, due: float) -> None:
        """The same, unless it runs."""
        self._due.setdefault(timer, due)

    def back_off(self, timer: Timer, now: float) -> None:
        """Later with each time in a row."""
        failures = self._failures[timer] = self._failures[timer] + 1
        backoff = self._backoffs[timer]
        delay = backoff.delay_ms(failures, first_connection=True, rng=self._rng)
        self._due[timer] = now + delay / 1000

    def worked(self, timer: Timer) -> None:
        """The row is over."""
        self._failures[timer] = 0

    def drop(self, *timers: Timer) -> None:
        for timer in timers:
            self._due.pop(timer, None)

    def clear(self) -> None:
        self._due.clear()

    def take_due(self, now: float) -> list[Timer]:
        """Those that are due; they do not run any more."""
        over = [timer for timer, due in self._due.items() if due <= now]
        self.drop(*over)
        return over
