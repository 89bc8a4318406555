"""How long a node sits out whose reigns end badly, and how often a broker may restart in place.

Pure. A reign that lasts `STABLE` seconds makes up for all bad ones before it.
"""

from __future__ import annotations

import math
import random

__all__ = ["Penalty"]

LONGEST = 60.0  # s; of sitting out, before jitter
STABLE = 60.0  # s
JITTER = 0.5  # of the time, so that nodes that fail together do not come back together


class Penalty:
    def __init__(self, base: float, chance: random.Random) -> None:
        """``base``: seconds that a node sits out after the first bad reign."""
        self.until = -math.inf  # when this node may campaign again
        self._base = base
        self._chance = chance
        self.since = math.inf  # when this reign began to be a good one
        self._bad = 0  # reigns in a row
        self._restarts = 0

    def begin(self) -> None:
        """A reign begins; nothing good is known of it."""
        self.since = math.inf
        self._restarts = 0

    def succeed(self, now: float) -> None:
        """The broker is healthy."""
        self.since = now

    def sit_out(self, now: float) -> None:
        """A reign ended badly."""
        if now - self.since >= STABLE:
            self._bad = 0
        wait = min(LONGEST, self._base * 2.0 ** min(self._bad, 30))
        self._bad += 1
        self.until = now + wait * (1 + JITTER * self._chance.random())

    def restart(self, now: float, allowed: int) -> int:
        """The number of the restart in place that may be tried now; 0: none."""
        if now - self.since >= STABLE:
            self._restarts = 0
        if self._restarts >= allowed:
            return 0
        self._restarts += 1
        self.since = math.inf
        return self._restarts
