"""What the lock has shown this node, whoever asked for it: who holds it, and who did before. Pure.

The keeper keeps only what answers its attempt under way; here late answers count too, and an answer
is taken in before the keeper has it. So the permit to campaign fits the record that it meets.
"""

from __future__ import annotations

import math

from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord
from understudyd.lock.words import Failed, Seen, Swap

__all__ = ["Sight"]


class Sight:
    def __init__(self) -> None:
        self.observation: Observation | None = None
        self.trouble = ""  # why it did not answer the last time
        self._at = -math.inf
        self._replaced: Observation | None = None  # by our last claim, if it was carried out

    def see(self, answer: Seen, now: float) -> None:
        self.observation, self._at = answer.observation, now
        self.trouble = ""

    def miss(self, failed: Failed) -> None:
        self.trouble = failed.cause

    def claim(self, swap: Swap) -> None:
        """We try to take the lock."""
        self._replaced = swap.expected

    def age(self, now: float) -> float:
        """Seconds since the lock answered last."""
        return now - self._at

    @property
    def record(self) -> LockRecord | None:
        return self.observation.record if self.observation else None

    @property
    def holder(self) -> str | None:
        """Who has the lock, as far as known."""
        record = self.record
        return None if record is None or record.is_void or record.released else record.holder

    @property
    def token(self) -> int | None:
        """Of the reign under way."""
        return self.record.token if self.record and self.holder else None

    @property
    def doubtful(self) -> str:
        """Who held the lock before us, where nothing but a lease says that its broker is dead."""
        replaced = self._replaced
        before = replaced.record if replaced else None
        if replaced is None or before is None or before.is_void or replaced.is_proven_free:
            return ""
        return before.holder
