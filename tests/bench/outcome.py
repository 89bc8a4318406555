"""What a case hands over: two series of samples, or one figure, and the bar it is held against.

Rules
* Peers take turns (A B, B A, …), so that what slows the machine down slows both.
* The ratio is the median of the ratios of neighbours; its interval is the bootstrap's 90 % interval
  of that median, with a fixed seed: equal samples give equal figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tests.bench.lab import Lab

__all__ = ["Bar", "Case", "Outcome", "compare", "taking_turns"]

RESAMPLES = 2000
ENOUGH = 5  # pairs below which the spread is told as min..max

Step: TypeAlias = Callable[[], None]
"""To be called after each round, for the progress shown."""


@dataclass(frozen=True)
class Bar:
    """What a figure should reach: at least, or with ``at_most`` no more than."""

    value: float
    goal: float | None = None
    at_most: bool = False

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{sign} {self.value:g}" + (f" (goal {self.goal:g})" if self.goal else "")

    def is_met_by(self, value: float) -> bool:
        return value <= self.value if self.at_most else value >= self.value


@dataclass(frozen=True)
class Outcome:
    name: str
    ours: str
    """Our figure as text, with its unit."""
    peer: str
    value: float
    """What is held against the bar."""
    unit: str
    """Of the value; "x" for a ratio."""
    bar: Bar
    spread: str = ""
    notes: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()
    """Why the bar counts as missed whatever the value."""
    details: dict[str, object] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        return "meets" if self.bar.is_met_by(self.value) and not self.flaws else "misses"


@dataclass(frozen=True)
class Case:
    name: str
    rounds: int
    measure: Callable[[Lab, int, Step], list[Outcome]]


def taking_turns(
    rounds: int, ours: Callable[[int], float], peer: Callable[[int], float], step: Step
) -> tuple[list[float], list[float]]:
    """Measure both in each round, the first being now one and now the other."""
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        turns = [(ours, mine), (peer, theirs)]
        for measure, samples in turns if number % 2 == 0 else reversed(turns):
            samples.append(measure(number))
        step()
    return mine, theirs


def compare(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, str]:
    """The ratio of paired samples, and its spread as text."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    if len(ratios) < ENOUGH:
        return median(ratios), f"{min(ratios):.2f}..{max(ratios):.2f} (min..max)"
    rng = random.Random(0)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[RESAMPLES // 20], medians[-RESAMPLES // 20]
    return median(ratios), f"{low:.2f}..{high:.2f} (90 %)"
