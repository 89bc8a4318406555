"""What the kernel counts of a process, and figures out of many samples."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["memory", "percentile", "processor", "processor_of_all"]

TICK = os.sysconf("SC_CLK_TCK")  # 1/s


def memory(pid: int) -> float:
    """MB that are this process's own, shared ones in proportion (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def processor(pid: int) -> float:
    """Seconds, as the scheduler counts them: what wakes with the clock's ticks is sampled wrongly
    by them."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((one / "schedstat").read_text().split()[0]) for one in threads) / 1e9


def processor_of_all(pid: int) -> float:
    """Seconds, by the clock's ticks: threads that have ended count too, as Java has them."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that so large a share of them do not pass."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]
