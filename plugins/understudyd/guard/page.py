"""The deadline page: how long the broker may live, in memory that control and the guards share.

Rules
* Control alone writes the deadline, and within a reign only ever a later one. A guard sees the
  newest without being told, also while control is frozen or already dead.
* A write may be cut short by the writer's death. Two slots are written in turn, each with a
  checksum; the valid one of the higher generation counts. So a torn write leaves the deadline
  before it: too early, never too late.
* Moments are CLOCK_BOOTTIME: it is never set, and goes on while the machine sleeps.
* Each guard has a sign of its own, which it changes to show that it lives: nobody has to wake up to
  ask for it, or to be told. A sign says nothing but that it is another than before.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct

from understudyd.guard.words import Lease

__all__ = ["SIGNING", "Page", "Pulse"]

SLOT = struct.Struct("<QQqQ")  # generation, token, deadline in ns, checksum
SIGN = struct.Struct("<Q")  # a number
SIGNERS = ("watcher", "guard", "fencer")
SIGNING = 1.0  # s from one sign of life to the next
SIZE = 2 * SLOT.size + len(SIGNERS) * SIGN.size
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
        """The reign is over and let go of. By control, or in its stead by who let go."""
        self._generation = self._newest()[0]
        self._write(Lease())

    def take_turn(self) -> int:
        """Wait until nobody else has the turn to act on this page; a descriptor that keeps it.

        It is let go by closing the last copy, as by the end of who has it.
        """
        descriptor = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def sign(self, signer: str, number: int) -> None:
        """Of one that lives; ``number`` is another each time."""
        SIGN.pack_into(self._map, _place_of(signer), number)

    def sign_of(self, signer: str) -> bytes:
        """Another value whenever it has signed."""
        place = _place_of(signer)
        return self._map[place : place + SIGN.size]

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


class Pulse:
    """Signs for one guard as often as it has to."""

    def __init__(self, page: Page, signer: str) -> None:
        self.due = -math.inf  # when to sign at the latest
        self._page = page
        self._signer = signer
        self._count = int.from_bytes(page.sign_of(signer), "little")

    def sign(self, moment: float) -> None:
        """To be called whenever this guard is awake."""
        if moment >= self.due:
            self._count += 1
            self._page.sign(self._signer, self._count)
            self.due = moment + SIGNING


def _place_of(signer: str) -> int:
    return 2 * SLOT.size + SIGNERS.index(signer) * SIGN.size


def _checksum(generation: int, token: int, deadline: int) -> int:
    mixed = MIX
    for value in (generation, token, deadline):
        mixed = (mixed ^ (value & (2**64 - 1))) * MIX % 2**64
        mixed ^= mixed >> 29
    return mixed
