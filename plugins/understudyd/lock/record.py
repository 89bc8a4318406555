"""The lock record: the one thing that all contenders of a group read and compare-and-set.

Rules
* Whoever writes changes (token, sequence): a claim takes a higher token, everything else the next
  sequence. So a version is never written twice with different contents, except by a store that went
  back to older data, and that shows in its incarnation.
* A record is never deleted. ``released`` makes it a tombstone: its broker is provably dead.
* Where there is none, a contender writes a *void* record, which nobody holds, and watches that: a
  missing record looks the same before and after somebody's reign, a void one is written once.
* ``incarnation`` names the life of the store in which the record was written. A store that restarts
  gets another one, and may come back with older data: what was written in another life proves only
  what watching it for a whole lease proves.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

__all__ = ["FORMAT", "LARGEST", "LockRecord", "RecordError", "Version"]

FORMAT = 1
LARGEST = 2**53  # token; above it Redis' Lua, as most that reads JSON, mixes up numbers


class RecordError(ValueError):
    """What is stored under this name is no lock record."""


@dataclass(frozen=True, order=True)
class Version:
    token: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.token}.{self.sequence}"


@dataclass(frozen=True)
class LockRecord:
    group: str
    holder: str  # node name
    instance: str  # one life of one sidecar; a restarted one is somebody else
    token: int  # fencing token; rises with each holder
    sequence: int  # rises with each renewal
    lease: float  # s; contenders with another lease are refused
    incarnation: str = ""
    released: bool = False
    api: str = ""  # where the holder's sidecar answers
    cause: str = ""  # why this holder took over, or why it let go
    heir: str = ""  # in a tombstone: the node that the holder let go for, if it was for one

    @property
    def version(self) -> Version:
        return Version(self.token, self.sequence)

    @property
    def is_void(self) -> bool:
        """Nobody's: it marks since when there has been no record."""
        return not self.holder

    def to_json(self) -> str:
        return json.dumps({"v": FORMAT, **asdict(self)}, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> LockRecord:
        """Raises RecordError, which says what is wrong."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise RecordError(f"the lock holds no JSON: {exc}") from exc
        if not isinstance(data, dict):
            raise RecordError(f"the lock holds {type(data).__name__}, not an object")
        if data.get("v") != FORMAT:
            raise RecordError(f"the lock record has format {data.get('v')!r}, not {FORMAT}")
        given = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        for field in fields(cls):
            value = given.get(field.name, field.default)
            kind = _KINDS[str(field.type)]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise RecordError(f"the lock record's {field.name} is {given.get(field.name)!r}")
        record = cls(**given)
        for name, number in (("token", record.token), ("sequence", record.sequence)):
            if not 0 <= number <= LARGEST:
                raise RecordError(f"the lock record's {name} is {number}, not from 0 to {LARGEST}")
        return record


_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
}
