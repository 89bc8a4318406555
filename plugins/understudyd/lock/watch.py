"""What a standby sees of the lock, since when, and what may be made of it. Pure, of the keeper.

Rules: a record counts as unchanged only while it is looked at again and again; whoever has not
looked for a lease begins anew. The patience is the longer one of the two where the record's lease
is another than ours.
"""

from __future__ import annotations

from understudyd.lock.port import Observation
from understudyd.lock.record import LARGEST, LockRecord
from understudyd.lock.timings import DRIFT, Timings

__all__ = ["BELIEVED", "Watch"]

JUMP = 1000  # tokens skipped after the store may have forgotten some
BELIEVED = LARGEST - 2 * JUMP  # the highest token that is learnt elsewhere: there is room above it


class Watch:
    def __init__(self, group: str, node: str, instance: str, timings: Timings) -> None:
        self.observation: Observation | None = None  # seen last; None: not yet, or too long ago
        self.refused = ""  # why this node can't take part
        self.is_renewed = False  # the last look showed another renewal of a living holder
        self._group = group
        self._node = node
        self._instance = instance
        self._timings = timings
        self._since = 0.0
        self._confirmed = 0.0

    def see(self, seen: Observation, highest_token: int, now: float) -> bool:
        """Take in what the store shows; whether there is another reason now to take no part."""
        known = self.observation
        if known != seen:
            self.observation, self._since = seen, now
        self._confirmed = now
        before = self.refused
        is_alive = known is not None and known.version != seen.version
        self.is_renewed = is_alive and seen.record is not None and not seen.record.released
        self.refused = _no_room(highest_token) or self._misfit(seen.record, is_alive, now)
        return bool(self.refused) and self.refused != before

    def forget(self) -> None:
        self.observation = None

    def forget_what_is_old(self, now: float) -> None:
        """We may have been frozen, or cut off."""
        if self.observation is not None and now - self._confirmed > self._patience:
            self.forget()

    def claim_time(self, seen: Observation) -> float:
        """When what was seen may be claimed, if it does not change."""
        is_due = seen.is_proven_free or seen.record is None
        return self._since + (0.0 if is_due else self._patience)

    def claim(self, seen: Observation, highest_token: int, sequence: int, api: str) -> LockRecord:
        """The record to write in its place; or the void one that has to be watched first."""
        before = seen.record
        is_void = before is None and not seen.is_free
        if before is None or before.is_void:
            cause = "there was no record"
        elif before.released:
            cause = f"{before.holder} let go: {before.cause}"
        elif seen.is_free:
            cause = f"{before.holder} is dead, and its broker"
        else:
            cause = f"{before.holder} was not heard of for {self._patience:.1f} s"
        is_continued = (
            before is not None and not before.is_void and before.incarnation == seen.incarnation
        )
        return LockRecord(
            group=self._group,
            holder="" if is_void else self._node,
            instance=self._instance,
            token=highest_token + (0 if is_void else 1 if is_continued else JUMP),
            sequence=sequence,
            lease=self._timings.lease,
            incarnation=seen.incarnation,
            api=api,
            cause=cause,
        )

    # --------------------------------------------------------------------------------------------

    @property
    def _patience(self) -> float:
        record = self.observation.record if self.observation else None
        theirs = 0.0 if record is None else record.lease * (1 + DRIFT)
        return max(self._timings.patience, theirs)

    def _misfit(self, record: LockRecord | None, is_alive: bool, now: float) -> str:
        """Why not to campaign beside the one whose record this is; '' = nothing speaks against."""
        if record is not None and record.group != self._group:
            return f"the lock is used by group {record.group!r}, this node is of {self._group!r}"
        if record is None or record.is_void or record.released:
            return ""
        if not is_alive:
            return "" if now - self._since > self._patience else self.refused
        if record.instance != self._instance and record.holder == self._node:
            return f"another sidecar of the name {self._node!r} has the lock"
        if record.lease != self._timings.lease:
            return (
                f"{record.holder} has the lock with lease={record.lease:g}, this node has "
                f"lease={self._timings.lease:g}; all nodes of a group need the same timings"
            )
        return self.refused


def _no_room(highest_token: int) -> str:
    """Why there can't be another token; above the largest one nobody could read the record."""
    if highest_token + JUMP <= LARGEST:
        return ""
    return (
        f"token {highest_token} was seen, and none above {LARGEST} can be given; no lock counts so"
        " far: put right what has it, the lock's record or the stamp of a store"
    )
