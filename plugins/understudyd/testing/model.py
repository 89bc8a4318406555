"""A model of what surrounds sidecars, in simulated time: a store that lies, a slow network.

Requests are delayed and lost, replies doubled too; the store restarts with older data or none, or
is flushed. It keeps the book of reigns: which broker lived when, with which token.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord

__all__ = ["Reign", "World"]


@dataclass
class Reign:
    node: str
    token: int
    begin: float
    end: float | None = None


class World:
    """Real time, the store, and what was accepted when."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.record: LockRecord | None = None
        self.incarnation = 0
        self.history: list[LockRecord | None] = [None]
        self.is_troubled = True
        self.highest_token = 0
        self.reigns: list[Reign] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, delay: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._numbers), do))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, do = heapq.heappop(self._queue)
            do()
        self.now = until

    def observe(self) -> Observation:
        return Observation(self.record, str(self.incarnation))

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        if self.observe() == expected:
            self.record = record
            self.history.append(record)
        return self.observe()

    def restart(self) -> None:
        """With older data, none, or all of it."""
        self.incarnation += 1
        back = self.random.choice([1, 1, 2, 3, 5, 20])
        self.record = self.random.choice([None, self.history[-min(back, len(self.history))]])
        self.history.append(self.record)

    def flush(self) -> None:
        self.record = None
        self.history.append(None)

    def journeys(self) -> list[float]:
        """How long each copy of a message takes; none when it is lost."""
        rng = self.random
        if not self.is_troubled:
            return [rng.uniform(0, 0.002)]
        dice = rng.random()
        if dice < 0.15:
            return []
        if dice < 0.25:
            return [rng.uniform(0, 4.0)]
        if dice < 0.3:
            return [rng.uniform(0, 0.1), rng.uniform(0, 4.0)]
        return [rng.uniform(0, 0.01)]

    # --- what must hold -------------------------------------------------------------------------

    def check(self) -> None:
        """Never two masters; tokens rise, but for a restart in place."""
        end_before, before = -1.0, ("", -1)
        for reign in self.reigns:
            assert reign.begin >= end_before, (reign, self.reigns)
            is_again = (reign.node, reign.token) == before
            assert is_again or reign.token > before[1], (reign, self.reigns)
            end_before = math.inf if reign.end is None else reign.end
            before = (reign.node, reign.token)
