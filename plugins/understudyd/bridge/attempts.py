"""Which parked messages a retry tries, and which of those it sent came back. No I/O.

Rules
* What lay there at the start is tried once. A message is known again by what was told when it was
  parked, the moment among it, and by its body; one that comes back was parked at another moment.
* Equal messages are interchangeable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from understudyd.bridge.unparking import Note

__all__ = ["Attempts", "Mark", "mark_of"]

SIZE = 16  # bytes of a digest; two different messages never share one


class Mark(NamedTuple):
    """One message in a parking queue, however often it is looked at."""

    whole: bytes
    body: bytes
    reason: str


def mark_of(note: Note, body: bytes) -> Mark:
    """``body`` as it was delivered."""
    told = repr((note.reason, note.destination, note.at, note.size)).encode()
    digest = blake2b(body, digest_size=SIZE).digest()
    return Mark(blake2b(told + digest, digest_size=SIZE).digest(), digest, note.reason)


class Attempts:
    """Of one retry of one queue."""

    def __init__(self, there: Iterable[Mark]) -> None:
        """``there``: what lies in the queue at the start."""
        self._there = Counter(mark.whole for mark in there)
        self._untried = Counter(self._there)
        self._sent: Counter[bytes] = Counter()
        self.count = self._there.total()
        """How many there were."""
        self.left = self.count
        """How many are still to be tried."""

    def take(self, mark: Mark) -> bool:
        """Whether this one is to be tried; then it is not the next time."""
        if not self._untried[mark.whole]:
            return False
        self._untried[mark.whole] -= 1
        self.left -= 1
        return True

    def sent(self, mark: Mark) -> None:
        """It was tried, and its destination has confirmed it."""
        self._sent[mark.body] += 1

    @property
    def moved(self) -> int:
        return self._sent.total()

    def came_back(self, lie_there: Iterable[Mark]) -> list[str]:
        """Of what lies there afterwards: why messages that were sent are parked again, for each."""
        away, old, reasons = Counter(self._sent), Counter(self._there), []
        for mark in lie_there:
            if old[mark.whole]:
                old[mark.whole] -= 1
            elif away[mark.body]:
                away[mark.body] -= 1
                reasons.append(mark.reason)
        return reasons
