"""What a sidecar leaves to the one that takes its place in the same process: a reign under way.

Pure. A legacy of another format is refused before anything is given up for it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from understudyd.config.model import Group, Node
from understudyd.lock.record import LockRecord

__all__ = ["FORMAT", "Legacy"]

FORMAT = 3  # to be raised also for what guards, older than the successor, say and hear


@dataclass(frozen=True)
class Legacy:
    record: LockRecord  # ours, as it was last confirmed
    deadline: float  # s of CLOCK_BOOTTIME, until when its lease may be relied on
    sequence: int  # the highest that was written, or may have been
    highest_token: int
    pid: int  # of the broker's first process
    since: float  # s of CLOCK_BOOTTIME; the broker has been healthy since then
    is_paused: bool
    ill: str  # what would be a reason to hand over, but for the pause; empty: healthy
    driver: str  # what the driver hands on
    descriptor: int | None = None  # the lock's, of a file

    def is_of(self, group: Group, node: Node) -> bool:
        record = self.record
        ours = (group.name, node.name, group.timings.lease)
        return (record.group, record.holder, record.lease) == ours

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "record": self.record.to_json(), "format": FORMAT})

    @classmethod
    def from_json(cls, text: str | bytes) -> Legacy:
        """Raises ValueError."""
        data = json.loads(text)
        format = data.pop("format")
        if format != FORMAT:
            raise ValueError(f"its format is {format}, not {FORMAT}")
        return cls(**{**data, "record": LockRecord.from_json(data["record"])})
