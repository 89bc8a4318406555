"""The deadline page: how long the broker may live, in memory that control and the guards share.

Rules
* Control alone writes, and within a reign only ever to a later deadline. A guard sees the newest
  deadline without being told, also while control is frozen or already dead.
* A write may be cut short by the writer's death. Two slots are written in turn, each with a
  checksum; the valid one of the higher generation counts. So a torn write leaves the deadline
  before it: too early, never too late.
* Moments are CLOCK_BOOTTIME: it is never set, and goes on while the machine sleeps.
"""

from __future__ import annotations

import mmap
import os
import struct

from understudyd.guard.words import Lease

__all__ = ["Page"]

SLOT = struct.Struct("<QQqQ")  # generation, token, deadline in ns, checksum
SIZE = 2 * SLOT.size
MIX = 0x9E3779B97F4A7C15  # so that a page of zeros is no valid one


class Page:
    def __init__(self, descriptor: int) -> None:
        """Of a descriptor that `create` made, perhaps in another process; it is ours to close."""
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, SIZE)
        self._generation, self._lease = self._newest()

    @classmethod
    def create(cls) -> Page:
        descriptor = os.memfd_create("understudy-deadline")
        os.ftruncate(descriptor, SIZE)
        return cls(descriptor)

    def read(self) -> Lease:
        return self._newest()[1]

    def extend(self, deadline: float, token: int) -> None:
        """Raise the deadline, or begin the reign of a higher token; anything older is ignored."""
        lease = self._lease
        if token < lease.token or (token == lease.token and deadline <= lease.deadline):
            return
        self._write(Lease(token, deadline))

    def clear(self) -> None:
        """The reign is over and let go of."""
        self._write(Lease())

    def close(self) -> None:
        self._map.close()
        os.close(self.descriptor)

    # --------------------------------------------------------------------------------------------

    def _write(self, lease: Lease) -> None:
        self._generation += 1
        self._lease = lease
        values = (self._generation, lease.token, round(lease.deadline * 1e9))
        offset = self._generation % 2 * SLOT.size
        self._map[offset : offset + SLOT.size] = SLOT.pack(*values, _checksum(*values))

    def _newest(self) -> tuple[int, Lease]:
        newest = (0, Lease())
        for offset in (0, SLOT.size):
            generation, token, deadline, checksum = SLOT.unpack_from(self._map, offset)
            is_whole = checksum == _checksum(generation, token, deadline)
            if is_whole and generation > newest[0]:
                newest = (generation, Lease(token, deadline / 1e9))
        return newest


def _checksum(generation: int, token: int, deadline: int) -> int:
    mixed = MIX
    for value in (generation, token, deadline):
        mixed = (mixed ^ (value & (2**64 - 1))) * MIX % 2**64
        mixed ^= mixed >> 29
    return mixed
