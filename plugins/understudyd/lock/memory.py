"""The in-memory twin of the lock backends: one store, any number of contenders in one process.

For tests, and for what is tried out on one machine without a server. `Store` can lie in the ways a
real one can: restart with older data or none, be flushed, not answer.
"""

from __future__ import annotations

import threading

from understudyd.lock.port import Observation, Unavailable
from understudyd.lock.record import LockRecord

__all__ = ["MemoryBackend", "Store"]


class Store:
    """What the contenders share."""

    def __init__(self) -> None:
        self.record: LockRecord | None = None
        self.is_down = False
        self._life = 1
        self._lock = threading.Lock()

    def observe(self) -> Observation:
        with self._lock:
            return self._observe()

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        with self._lock:
            if self._observe() == expected:
                self.record = record
            return self._observe()

    def restart(self, record: LockRecord | None) -> None:
        """Another life, with this for data."""
        with self._lock:
            self._life += 1
            self.record = record

    def _observe(self) -> Observation:
        if self.is_down:
            raise Unavailable("the store is down")
        return Observation(self.record, f"life {self._life}")


class MemoryBackend:
    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> Observation:
        return self._store.observe()

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        return self._store.swap(expected, record)

    def close(self) -> None:
        """Nothing to let go of."""
