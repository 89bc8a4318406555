"""What an answer of the store says to who has the lock: still ours, somebody else's, or neither.

Neither proves nothing: the record is gone, or has gone back to older data. Pure.
"""

from __future__ import annotations

from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord

__all__ = ["how_lost", "is_ours", "is_somebody_elses"]


def is_ours(ours: LockRecord, seen: Observation) -> bool:
    """Whether the store shows a write of ours, not gone back; perhaps another than we know."""
    theirs = seen.record
    return theirs is not None and (theirs.token, theirs.instance, theirs.incarnation) == (
        ours.token,
        ours.instance,
        seen.incarnation,
    )


def is_somebody_elses(ours: LockRecord, seen: Observation) -> bool:
    """Whether the store shows that the lock is not ours any more."""
    theirs = seen.record
    if seen.lost:
        return True
    if theirs is None or theirs.is_void or theirs.token < ours.token:
        return False  # gone, or gone back to older data: ours is to be written again
    if theirs.token > ours.token or theirs.instance != ours.instance:
        return True
    return theirs.released  # by our guard, which knows that the broker is dead


def how_lost(seen: Observation) -> str:
    """In words; where `is_somebody_elses`."""
    if seen.lost:
        return seen.lost
    assert seen.record is not None
    what = "was released by our guard" if seen.record.released else "is held"
    return f"the lock {what}: {seen.record.holder}, token {seen.record.token}"
