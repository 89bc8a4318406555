"""Which connections exist in which epoch, and which of them wait for a taker.

Not thread-safe: the supervisor calls it under its lock. Severing never blocks.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from understudy.failover.dialer import Dialer

__all__ = ["Connections"]

C = TypeVar("C")


class Connections(Generic[C]):
    def __init__(self, dialer: Dialer[C]) -> None:
        self._dialer = dialer
        self._epochs: weakref.WeakKeyDictionary[C, int] = weakref.WeakKeyDictionary()
        self._ready: list[C] = []

    @property
    def ready(self) -> int:
        """How many wait for a taker."""
        return len(self._ready)

    def epoch_of(self, connection: C) -> int:
        """-1 for one that is over."""
        return self._epochs.get(connection, -1)

    def are_served(self, epoch: int) -> bool:
        """Whether one of this epoch lives, as far as can be told."""
        return any(
            theirs == epoch and self._dialer.is_alive(connection)
            for connection, theirs in list(self._epochs.items())
        )

    def arrived(self, connection: C, epoch: int) -> None:
        self._epochs[connection] = epoch
        self._ready.append(connection)

    def take(self) -> C | None:
        """One that waited for a taker, dead or alive; None when there is none."""
        return self._ready.pop() if self._ready else None

    def forget(self, connection: C) -> int | None:
        """It is over; the epoch that it belonged to until now."""
        if connection in self._ready:
            self._ready.remove(connection)
        return self._epochs.pop(connection, None)

    def leave(self, epoch: int) -> None:
        """Sever all of this epoch."""
        for connection, theirs in list(self._epochs.items()):
            if theirs == epoch:
                self._dialer.sever(connection)
                del self._epochs[connection]
        self._ready.clear()

    def clear_ready(self) -> list[C]:
        """Give up those that wait for a taker."""
        ready, self._ready = self._ready, []
        return ready

    def clear(self) -> list[C]:
        """Forget all."""
        everything = list(self._epochs)
        self._epochs.clear()
        self._ready.clear()
        return everything
