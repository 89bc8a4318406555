"""How much memory a broker has of its own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from understudyd.guard import tree

__all__ = ["owned"]


def owned(pid: int) -> int:
    """Bytes that are given back when this process and all below it are killed."""
    pages = 0
    for one in (pid, *(process.pid for process in tree.descendants(pid))):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            _, resident, shared, *_ = Path(f"/proc/{one}/statm").read_text().split()
            pages += int(resident) - int(shared)
    return pages * os.sysconf("SC_PAGE_SIZE")
