"""Callers who wait for something to change, each on a lock of his own.

Condition.wait gives its lock back while it waits and then takes it again. An exception of a signal
handler can come between the two, and the ``with`` around it then releases a lock that it does not
hold: a RuntimeError in place of the handler's own. So callers of the application's wait here, with
no lock held.
"""

from __future__ import annotations

import contextlib
import threading
import weakref

__all__ = ["Waiter", "Waiters"]


class Waiter:
    """One call that waits; it counts no longer than it lives, however the call ends."""

    def __init__(self) -> None:
        self._bell = threading.Lock()  # free = rung
        self._bell.acquire()

    def wait(self, seconds: float) -> None:
        """Until rung, also before now, at most so long. Call it with no lock held."""
        self._bell.acquire(timeout=seconds)

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # rung already
            self._bell.release()


class Waiters:
    """All who wait at one place. Each step is one that no signal handler can come into."""

    def __init__(self) -> None:
        self._all: set[weakref.ref[Waiter]] = set()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, waiter: Waiter) -> None:
        self._all.add(weakref.ref(waiter, self._all.discard))

    def discard(self, waiter: Waiter) -> None:
        self._all.discard(weakref.ref(waiter))

    def ring(self) -> None:
        for reference in tuple(self._all):
            waiter = reference()
            if waiter is not None:
                waiter.ring()

    def dismiss(self) -> None:
        """Ring, and count none of them any more: what they wait for will not come."""
        self.ring()
        self._all.clear()
