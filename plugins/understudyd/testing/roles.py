"""What the role APIs tell while a group is broken, judged by what its brokers accepted meanwhile.

Rules
* An answer is true of some moment between question and answer, and no more is assumed of it: only
  what lies wholly before the one or after the other speaks against it.
* Reigns are told apart by their tokens, so it does not matter which node answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from understudyd.testing.asking import Asking
from understudyd.testing.estate import Sidecar, SidecarEstate
from understudyd.testing.witness import Interval

__all__ = ["Roles", "Told", "judge_roles"]

PAUSE = 0.03  # s between two questions to a node


@dataclass(frozen=True)
class Told:
    """That a node is master, asked and answered at these moments (s of CLOCK_MONOTONIC)."""

    token: int
    asked: float
    answered: float


class Roles(Asking):
    """Keeps asking every node's API for /master, from a thread for each node."""

    def __init__(self, estate: SidecarEstate) -> None:
        self.told: list[Told] = []
        super().__init__(partial(self._run, node) for node in estate.nodes.values())

    def _run(self, node: Sidecar) -> None:
        while not self.is_over.wait(PAUSE):
            asked = time.monotonic()
            code, body = node.get("/master", timeout=1.0)
            if code == 200:
                self.told.append(Told(json.loads(body)["token"], asked, time.monotonic()))


def judge_roles(told: Iterable[Told], rows: Sequence[Interval]) -> list[str]:
    """What must not have been told; empty when all is well."""
    wrong = []
    for one in told:
        for row in rows:
            if row.token > one.token and row.begin < one.asked:
                wrong.append(f"told to be master when a later one was: {one}, {row}")
            if row.token < one.token and row.end > one.answered:
                wrong.append(f"told to be master when an earlier one was: {one}, {row}")
    return wrong
