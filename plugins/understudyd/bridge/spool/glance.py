"""Whether a folder holds messages, seen without having it: nothing is written, no lock is taken."""

from __future__ import annotations

from pathlib import Path

from understudyd.bridge.spool.format import FormatError, cursor_of, head_of, next_record
from understudyd.bridge.spool.store import CURSOR, SUFFIX

__all__ = ["is_done"]


def is_done(folder: Path) -> bool:
    """Whether all that it was given is acknowledged; False where that cannot be told."""
    last = max(folder.glob(f"*{SUFFIX}"), default=None)  # others go when they are acknowledged
    if last is None:
        return True
    try:
        data = last.read_bytes()
        _, cursor = cursor_of((folder / CURSOR).read_bytes()) or (0, 1)
        head = head_of(data)
    except (OSError, FormatError):
        return False
    found = next_record(data, head.seed, cursor - 1, head.end - 1, in_commit=False)
    return head.first <= cursor and found is None
