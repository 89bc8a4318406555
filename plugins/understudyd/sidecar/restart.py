"""A restart in place that somebody has asked for: when it may be, and what has to be done. Pure.

Rules
* A standby ends and begins anew. A master hands its reign on, right after a renewal: what is left
  of the lease then has to last until its successor renews it.
* In between, and while something is under way that a successor would know nothing of, it waits.
"""

from __future__ import annotations

from enum import Enum

from understudyd.lock.keeper import Keeper
from understudyd.lock.timings import Timings
from understudyd.sidecar.phase import Phase

__all__ = ["Move", "Restart"]

FACTOR = 1.5  # a successor may take so much longer than its trial did
SPARE = 0.5  # s for the API process to end, and the first renewal


class Move(Enum):
    END = "end"  # and begin anew
    HAND_ON = "hand on"
    REFUSE = "refuse"


class Restart:
    def __init__(self) -> None:
        self._needed: float | None = None  # s; None: nobody has asked

    @property
    def is_wanted(self) -> bool:
        return self._needed is not None

    def want(self, took: float) -> None:
        """It is asked for; the trial took so many seconds."""
        self._needed = FACTOR * took + SPARE

    def give_up(self) -> None:
        self._needed = None

    def refusal(self, timings: Timings) -> str:
        return (
            f"it may take {self._needed:.1f} s, and a lease lasts {timings.budget:.1f} s: use"
            " switchover, or timings with a longer lease"
        )

    def move(
        self, phase: Phase, keeper: Keeper, timings: Timings, now: float, *, is_calm: bool
    ) -> Move | None:
        """What to do now, if anything. ``is_calm``: nothing is under way outside of the machine."""
        if self._needed is None:
            return None
        if phase is Phase.STANDBY:
            return Move.END
        if phase is not Phase.MASTER:
            return None
        if self._needed > timings.budget - timings.attempt:
            return Move.REFUSE
        is_fresh = keeper.is_settled and keeper.deadline - now >= self._needed
        return Move.HAND_ON if is_calm and is_fresh else None
