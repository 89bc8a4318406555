"""The keeper's attempts to reach the store: one at a time. Pure, of the keeper.

Rules
* An answer to an attempt that is not under way any more is not listened to.
* Each write gets a sequence of its own, also when it repeats one that was not answered: seen in the
  store it must tell which of the two was carried out, and so when it was sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord
from understudyd.lock.timings import Timings
from understudyd.lock.words import Read, Swap

__all__ = ["Attempt", "Attempts"]


@dataclass
class Attempt:
    number: int
    sent: float
    record: LockRecord | None = None  # what a swap writes


class Attempts:
    def __init__(self, timings: Timings) -> None:
        self.under_way: Attempt | None = None
        self._timings = timings
        self._count = 0
        self.sequence = 0  # the highest that we wrote, or tried to
        self._unanswered: dict[int, float] = {}  # renewals: sequence, and when it was sent

    @property
    def due(self) -> float:
        """When the one under way counts as unanswered."""
        return math.inf if self.under_way is None else self.under_way.sent + self._timings.attempt

    def read(self, now: float) -> Read:
        return Read(self._begin(now, None))

    def swap(self, expected: Observation, record: LockRecord, now: float) -> Swap:
        return Swap(self._begin(now, record), expected, record)

    def end(self, number: int) -> Attempt | None:
        """The one under way, if it has this number; it is no longer."""
        attempt = self.under_way
        if attempt is None or attempt.number != number:
            return None
        self.under_way = None
        return attempt

    def new_sequence(self, seen: Observation | None) -> int:
        """For a write in place of what was seen."""
        there = seen.record if seen else None
        self.sequence = max(self.sequence, there.sequence if there else 0) + 1
        return self.sequence

    def miss(self, attempt: Attempt, now: float) -> None:
        """A renewal was not answered; it may show in the store."""
        assert attempt.record is not None
        self._unanswered[attempt.record.sequence] = attempt.sent
        oldest = now - self._timings.budget
        self._unanswered = {n: at for n, at in self._unanswered.items() if at > oldest}

    @property
    def are_answered(self) -> bool:
        """None is under way, and no renewal that was given up may still show in the store."""
        return self.under_way is None and not self._unanswered

    def missed(self, seen: Observation) -> float | None:
        """When the unanswered renewal was sent that the store shows; None: it shows none."""
        return self._unanswered.get(seen.record.sequence) if seen.record else None

    def confirm(self) -> None:
        """A later write was answered."""
        self._unanswered = {}

    def _begin(self, now: float, record: LockRecord | None) -> int:
        self._count += 1
        self.under_way = Attempt(self._count, now, record)
        return self._count
