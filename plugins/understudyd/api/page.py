"""The page that a sidecar or a bridge shares with its API: what to answer, until when it is true.

Rules
* One writer to a cell, any number of readers, no lock: a reader never waits, whatever the writer
  does. Each cell has two slots, written in turn and checked by a sum; a reader takes the newest
  whole one. A writer that is killed in the middle leaves the last whole one.
* The *snapshot* is written when something has changed. The *pulse* (deadline, token and the
  writer's own beat) is written at least every `BEAT` seconds: it is small, and what makes a
  snapshot true or stale. In a third cell the API tells every second that it lives itself.
* Times are seconds of CLOCK_BOOTTIME, the keeper's clock, which all processes of a host share.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from understudyd.clock import now
from understudyd.status import ClusterStatus, HistoryEntry, NodeStatus

__all__ = ["BEAT", "Page", "Pulse", "Sheet", "Snapshot"]

BEAT = 1.0  # s; a third of what counts as silent
SLOT = struct.Struct("=QIIQ")  # sequence, length, sum of the data, sum of the three
PULSE = struct.Struct("=ddQ")  # beat, deadline, token
SIGN = struct.Struct("=d")  # when the API was last known to live
ROUNDS = 5  # a slot that changes while it is read was written twice meanwhile: look again
SNAPSHOT_SIZE = 256 * 1024  # bytes; a hundred entries of history and as many nodes are 50 KB


@dataclass(frozen=True)
class Snapshot:
    """All that the API needs to answer."""

    status: NodeStatus
    cluster: ClusterStatus
    history: tuple[HistoryEntry, ...] = ()
    uris: tuple[str, ...] = ()  # where clients reach the group, the master first; no userinfo
    is_ready: bool = True  # this node could do its part: the lock answers, nothing is refused
    trouble: str = ""  # why it is not ready, for people
    at: float = 0.0  # when it was written; set by `Page.publish`
    metrics: Mapping[str, float] = field(default_factory=dict)  # names: `metrics.METRICS`

    def to_json(self) -> bytes:
        data: dict[str, Any] = {
            "status": self.status.to_json(),
            "cluster": {
                **self.cluster.to_json(),
                "nodes": [node.to_json() for node in self.cluster.nodes],
            },
            "history": [entry.to_json() for entry in self.history],
            "uris": self.uris,
            "is_ready": self.is_ready,
            "trouble": self.trouble,
            "at": self.at,
            "metrics": self.metrics,
        }
        return json.dumps(data, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Snapshot:
        data = json.loads(text)
        return cls(
            status=NodeStatus.from_json(data["status"]),
            cluster=ClusterStatus.from_json(data["cluster"]),
            history=tuple(map(HistoryEntry.from_json, data["history"])),
            uris=tuple(data["uris"]),
            is_ready=data["is_ready"],
            trouble=data["trouble"],
            at=data["at"],
            metrics=data["metrics"],
        )


@dataclass(frozen=True)
class Pulse:
    beat: float = -math.inf  # when the writer was last known to live
    deadline: float = -math.inf  # until when the lease of ``token`` may be relied on
    token: int = 0


class Sheet:
    """Shared memory behind a file descriptor, which another process maps as well."""

    def __init__(self, descriptor: int | None = None, *, room: int = SNAPSHOT_SIZE) -> None:
        """A new one, for data of so many bytes, or the one behind an inherited descriptor."""
        small = [PULSE.size, SIGN.size]
        if descriptor is None:
            descriptor = os.memfd_create("understudy-api", os.MFD_CLOEXEC)
            os.truncate(descriptor, sum(2 * (SLOT.size + one) for one in (*small, room)))
        size = os.fstat(descriptor).st_size
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)
        begins = [sum(2 * (SLOT.size + one) for one in small[:index]) for index in range(3)]
        sizes = [*small, (size - begins[2]) // 2 - SLOT.size]
        self._pulse, self._sign, self._data = (
            _Cell(self._memory, begin, one) for begin, one in zip(begins, sizes, strict=True)
        )
        self._known = 0

    def write(self, data: bytes) -> None:
        """Raises ValueError for what is too large."""
        self._data.write(data)

    def read(self) -> bytes:
        """What was written since it was read last; empty: nothing."""
        self._known, data = self._data.read(known=self._known)
        return data

    def beat(self, deadline: float = -math.inf, token: int = 0) -> None:
        """The writer lives; its lease, if it has one, lasts until the deadline."""
        self._pulse.write(PULSE.pack(now(), deadline, token))

    def pulse(self) -> Pulse:
        _, data = self._pulse.read()
        return Pulse(*PULSE.unpack(data)) if data else Pulse()

    def sign(self) -> None:
        """The API lives."""
        self._sign.write(SIGN.pack(now()))

    def signed(self) -> float:
        """When it last said so."""
        _, data = self._sign.read()
        return float(SIGN.unpack(data)[0]) if data else -math.inf

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)


class Page(Sheet):
    """The sidecar's."""

    def __init__(self, descriptor: int | None = None) -> None:
        super().__init__(descriptor)
        self._last: Snapshot | None = None

    def publish(self, snapshot: Snapshot) -> None:
        """What is too large loses the older half of its history, until it fits.

        Raises ValueError when it is too large without any.
        """
        data = replace(snapshot, at=now()).to_json()
        if len(data) > SNAPSHOT_SIZE and snapshot.history:
            newer = snapshot.history[len(snapshot.history) // 2 + 1 :]
            self.publish(replace(snapshot, history=newer))
        else:
            self.write(data)

    def snapshot(self) -> Snapshot | None:
        """The last one; None before the first."""
        if data := self.read():
            self._last = Snapshot.from_json(data)
        return self._last


class _Cell:
    def __init__(self, memory: mmap.mmap, offset: int, size: int) -> None:
        self._memory = memory
        self._offsets = (offset, offset + SLOT.size + size)
        self._size = size

    def write(self, data: bytes) -> None:
        if len(data) > self._size:
            raise ValueError(f"{len(data)} bytes do not fit into {self._size}")
        heads = [self._head(offset) for offset in self._offsets]
        sequence = max(head[0] for head in heads) + 1
        offset = self._offsets[heads[0][0] > heads[1][0]]
        begin = offset + SLOT.size
        SLOT.pack_into(self._memory, offset, 0, 0, 0, 0)  # nobody shall read it meanwhile
        self._memory[begin : begin + len(data)] = data
        facts = (sequence, len(data), zlib.crc32(data))
        SLOT.pack_into(self._memory, offset, *facts, _sum(*facts))

    def read(self, known: int = 0) -> tuple[int, bytes]:
        """Sequence and data of the newest whole slot, if it is newer than the known one."""
        for _ in range(ROUNDS):
            found = [(*self._head(offset), offset) for offset in self._offsets]
            sequence, length, total, offset = max(found)
            if sequence <= known:
                break
            begin = offset + SLOT.size
            data = self._memory[begin : begin + length]
            if zlib.crc32(data) == total:
                return sequence, data
        return known, b""

    def _head(self, offset: int) -> tuple[int, int, int]:
        """(0, 0, 0) for a slot that is empty or being written."""
        sequence, length, total, check = SLOT.unpack_from(self._memory, offset)
        if check != _sum(sequence, length, total) or length > self._size:
            return 0, 0, 0
        return sequence, length, total


def _sum(sequence: int, length: int, total: int) -> int:
    return zlib.crc32(struct.pack("=QII", sequence, length, total)) if sequence else 0
