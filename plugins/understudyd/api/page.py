"""The page that a sidecar or a bridge shares with its API: what to answer, until when it is true.

Rules
* A reader never waits, whatever the writer does: see `Cell`. One that is killed in the middle of a
  write leaves what was there before.
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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from understudyd.cell import Cell
from understudyd.clock import now
from understudyd.status import ClusterStatus, HistoryEntry, NodeStatus

__all__ = ["BEAT", "Page", "Pulse", "Sheet", "Snapshot"]

BEAT = 1.0  # s; a third of what counts as silent
PULSE = struct.Struct("=ddQ")  # beat, deadline, token
SIGN = struct.Struct("=d")  # when the API was last known to live
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
        sign_at = Cell.room(PULSE.size)
        data_at = sign_at + Cell.room(SIGN.size)
        if descriptor is None:
            descriptor = os.memfd_create("understudy-api", os.MFD_CLOEXEC)
            os.truncate(descriptor, data_at + Cell.room(room))
        size = os.fstat(descriptor).st_size
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)
        self._pulse = Cell(self._memory, 0, PULSE.size)
        self._sign = Cell(self._memory, sign_at, SIGN.size)
        self._data = Cell(self._memory, data_at, (size - data_at - Cell.room(0)) // 2)
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
