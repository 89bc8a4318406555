"""How much memory a broker has of its own, and who looks at it now and then."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from understudyd.guard import tree
from understudyd.sidecar.worker import Worker

__all__ = ["Scales", "Weighed", "owned"]

PERIOD = 10.0  # s between two looks


@dataclass(frozen=True)
class Weighed:
    """How many bytes of memory the broker has."""

    memory: int


class Scales:
    def __init__(self, tell: Callable[[Weighed], None]) -> None:
        """``tell`` is called from another thread."""
        self._worker = Worker("understudy-memory", tell)
        self._at = -math.inf

    def weigh(self, pid: int | None, moment: float) -> None:
        """To be called often, while a broker runs; None or 0: none that is known."""
        if pid and moment >= self._at:
            self._at = moment + PERIOD
            self._worker.do(lambda: Weighed(owned(pid)))


def owned(pid: int) -> int:
    """Bytes that are given back when this process and all below it are killed."""
    pages = 0
    for one in (pid, *(process.pid for process in tree.descendants(pid))):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            _, resident, shared, *_ = Path(f"/proc/{one}/statm").read_text().split()
            pages += int(resident) - int(shared)
    return pages * os.sysconf("SC_PAGE_SIZE")
