"""When the watcher stops believing in the guard. Pure.

Rule: the guard gets ``slack`` to begin what it has to do at the deadline, or when control has died,
and then the time that killing may take. What it can't kill is no fault of its own.
"""

from __future__ import annotations

import math

from understudyd.guard.words import NEVER, Armed, Idle, Killing, Lease, Stuck

__all__ = ["Suspicion"]


class Suspicion:
    def __init__(self, kill: float, slack: float) -> None:
        """Both in seconds."""
        self.token = 0  # of the broker that the guard has in custody; 0 = none
        self._kill = kill
        self._slack = slack
        self._lost = math.inf  # when control was lost
        self._killing = math.inf  # since when the guard says that it kills
        self._is_stuck = False

    def heard(self, message: Armed | Killing | Stuck | Idle, now: float) -> None:
        if isinstance(message, Armed):
            self.token, self._killing, self._is_stuck = message.token, math.inf, False
        elif isinstance(message, Killing):
            self._killing = min(self._killing, now)
        elif isinstance(message, Stuck):
            self._is_stuck = True
        else:
            self.token = 0

    def control_lost(self, now: float) -> None:
        self._lost = min(self._lost, now)

    def due(self, lease: Lease) -> float:
        """When the guard is to be killed if nothing is heard of it."""
        if not self.token or self._is_stuck:
            return math.inf
        if self._killing < math.inf:
            return self._killing + self._kill + self._slack
        deadline = lease.deadline if lease.token == self.token else NEVER
        return min(deadline, self._lost) + self._slack
