"""What publishers and workers have recorded so far, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from understudy.testing.demo.records import EXECUTED, SENT, Reader

__all__ = ["Tally"]


class Tally:
    """Counts over all records in one folder; ``poll()`` brings them up to date."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[Path, Reader] = {}
        self.sent: set[str] = set()  # ids for which delay() returned
        self.errors: Counter[str] = Counter()  # what delay() raised, by class
        self.first_error: str | None = None
        self.longest_call = 0.0  # s, of delay(), whatever came of it
        self.last_call: dict[str, float] = {}  # by publisher: when its latest call ended
        self.executions: Counter[str] = Counter()  # by task id
        self.progress: list[float] = []  # the moments of all first executions
        self.by_broker: dict[str, list[float]] = {}  # the moments of all executions

    def poll(self) -> bool:
        """Read what is new; True if a task was executed since."""
        before = self.executions.total()
        for path, (outcome, what, begun, ended) in self._new(SENT):
            if outcome == SENT:
                self.sent.add(what)
            else:
                self.errors[what.partition(":")[0]] += 1
                self.first_error = self.first_error or what
            self.longest_call = max(self.longest_call, ended - begun)
            self.last_call[path.name.removeprefix(f"{SENT}.")] = ended
        for path, (task, moment) in self._new(EXECUTED):
            if task not in self.executions:
                self.progress.append(moment)
            self.executions[task] += 1
            broker = path.name.split(".")[1]
            self.by_broker.setdefault(broker, []).append(moment)
        return self.executions.total() > before

    def _new(self, kind: str) -> Iterator[tuple[Path, list[Any]]]:
        for path in sorted(self._folder.glob(f"{kind}.*")):
            reader = self._readers.setdefault(path, Reader(path))
            for record in reader.new():
                yield path, record

    @property
    def executed(self) -> set[str]:
        """Those of the tasks sent that were executed."""
        return self.sent & self.executions.keys()

    @property
    def duplicates(self) -> int:
        """Executions of a task after its first."""
        return self.executions.total() - len(self.executions)

    def active(self, now: float) -> str | None:
        """The broker whose workers are busiest: the one that the publishers use."""
        recent = {name: self._since(name, now - 1) for name in self.by_broker}
        if any(recent.values()):
            return max(recent, key=lambda name: recent[name])
        latest = {name: max(moments) for name, moments in self.by_broker.items()}
        return max(latest, key=lambda name: latest[name], default=None)

    def rate(self, now: float) -> float:
        """Executions a second, over the last second."""
        return sum(self._since(name, now - 1) for name in self.by_broker)

    def _since(self, broker: str, moment: float) -> int:
        # pool processes write in turns: not quite in order, but far better than a second
        recent = takewhile(lambda one: one > moment - 1, reversed(self.by_broker[broker]))
        return sum(one > moment for one in recent)

    def longest_pause(self, begin: float, end: float) -> float:
        """The longest time in this period without a task executed for the first time, s."""
        moments = sorted(moment for moment in self.progress if begin < moment < end)
        return max(after - before for before, after in pairwise([begin, *moments, end]))
