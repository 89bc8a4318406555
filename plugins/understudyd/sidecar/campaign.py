"""Whether this node may claim the lock, and how much later than others. Pure.

Rules
* The board is heard first, for `NEWS` seconds at most: a pause of the group may stand there.
* The heir that a tombstone names may claim at once. All others leave it a lease, the old master
  among them; if it has not taken the lock by then, whoever comes first by rank does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from understudyd import election
from understudyd.config.model import Node
from understudyd.lock.record import LockRecord
from understudyd.lock.words import Permit
from understudyd.status import Member

__all__ = ["Campaign"]

NEWS = 1.0  # s


class Campaign:
    def __init__(self) -> None:
        self.members: tuple[Member, ...] = ()
        self.began = math.inf  # when this node did
        self.due = math.inf  # until when the board's first news are waited for
        self._is_early = True

    def begin(self, now: float) -> None:
        """Repeated calls do nothing."""
        if self.began == math.inf:
            self.began = now
            self.due = now + NEWS

    def hear(self, members: Iterable[Member]) -> None:
        """What the board shows; nobody, where it can't be reached."""
        self.members = tuple(members)
        self._is_early = False
        self.due = math.inf

    def permit(self, may: bool, node: Node, record: LockRecord | None, now: float) -> Permit:
        """``may``: whether this node could and should be master."""
        if now >= self.due:
            self.hear(())
        if self._is_early or not may or node.nofailover:
            return Permit(False)
        heir = record.heir if record is not None and record.released else ""
        if heir == node.name:
            return Permit(True)
        gone = record.holder if record is not None else ""
        wait = election.delay(self.members, node.name, node.weight, gone)
        return Permit(True, wait + (record.lease if record is not None and heir else 0.0))
