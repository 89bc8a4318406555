"""Cuts that a ``FaultProxy`` was ordered to make: when each is due, and the handle on it.

A cut is due at a position of a stream, never "at about that time". ``FrameCut`` counts the frames
of one method over all connections of the proxy, in the order in which they pass; ``ByteCut`` counts
the bytes of each connection. Counting is done in the proxy's thread only; ``fired``, ``wait`` and
``cancel`` may be used from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal

from understudy.testing.frames import Mark, MethodId

__all__ = ["ByteCut", "Cut", "Direction", "FrameCut", "How", "first_hit"]

Direction = Literal["up", "down"]  # up = from the client to the target
How = Literal["rst", "fin", "black_hole"]


class Cut:
    """An ordered cut; ``wait()`` tells when it was made."""

    def __init__(
        self,
        how: How,
        then: Callable[[], object] | None,
        times: int | None,
        on_cancel: Callable[[Cut], None],
    ) -> None:
        self.how = how
        self.fired = 0  # how often the cut was made
        self.error: Exception | None = None  # what ``then`` raised
        self.is_armed = True
        self._then = then
        self._times = times
        self._on_cancel = on_cancel
        self._done = threading.Event()

    def __repr__(self) -> str:
        state = "armed" if self.is_armed else "disarmed"
        return f"<{type(self).__name__} {self.how}, {state}, fired {self.fired}>"

    def wait(self, timeout: float = 30.0) -> bool:
        """Wait until the cut was made for the first time; raises what ``then`` raised."""
        was_made = self._done.wait(timeout)
        if self.error is not None:
            raise self.error
        return was_made

    def cancel(self) -> None:
        """Disarm; what was cut stays cut."""
        self._on_cancel(self)

    def strike(self) -> None:
        """Proxy's thread: the moment has come. Count, disarm after the last time, run ``then``."""
        self.fired += 1
        if self._times is not None and self.fired >= self._times:
            self.is_armed = False
        if self._then is not None:
            try:
                self._then()
            except Exception as exc:  # a user's callback cannot stop the proxy
                self.error = exc

    def struck(self) -> None:
        """Proxy's thread: the connection is cut now."""
        self._done.set()


class FrameCut(Cut):
    """Due just before or just after the nth frame of a method."""

    def __init__(
        self,
        method: MethodId,
        nth: int,
        direction: Direction,
        *,
        before: bool,
        how: How,
        then: Callable[[], object] | None,
        times: int | None,
        on_cancel: Callable[[Cut], None],
    ) -> None:
        if nth < 1:
            raise ValueError(f"nth counts from 1, not {nth}")
        super().__init__(how, then, times, on_cancel)
        self.method = method
        self.nth = nth
        self.direction = direction
        self.before = before
        self.seen = 0  # frames of the method that have passed since the last cut

    def is_about(self, mark: Mark) -> bool:
        """Whether the mark is one of those that are counted."""
        return self.is_armed and mark.begins == self.before and mark.method == self.method

    def count(self) -> bool:
        """One more such mark was reached; True when it was the nth."""
        self.seen += 1
        if self.seen < self.nth:
            return False
        self.seen = 0
        return True


class ByteCut(Cut):
    """Due when a connection has passed a number of bytes."""

    def __init__(
        self,
        n_bytes: int,
        direction: Direction | Literal["both"],
        *,
        how: How,
        then: Callable[[], object] | None,
        times: int | None,
        on_cancel: Callable[[Cut], None],
    ) -> None:
        if n_bytes < 1:
            raise ValueError(f"n_bytes must be at least 1, not {n_bytes}; reset() cuts at once")
        super().__init__(how, then, times, on_cancel)
        self.n_bytes = n_bytes
        self.direction = direction

    def counts(self, direction: Direction) -> bool:
        """Whether bytes of that direction are counted."""
        return self.is_armed and self.direction in (direction, "both")


def first_hit(marks: Sequence[Mark], cuts: Sequence[FrameCut]) -> tuple[int, FrameCut] | None:
    """Where the first of ``cuts`` will be due if just these marks pass; changes no count."""
    to_come = {cut: cut.nth - cut.seen for cut in cuts}
    for mark in marks:
        for cut in cuts:
            if cut.is_about(mark):
                to_come[cut] -= 1
                if to_come[cut] <= 0:
                    return mark.position, cut
    return None
