"""The deadline page: how long the broker may live, in memory that control and the guards share.

Rules
* Control alone writes the deadline, and within a reign only ever a later one. A guard sees the
  newest without being told, also while control is frozen or already dead.
* A write may be cut short by the writer's death. It leaves the deadline before it (see `Cell`): too
  early, never too late.
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

from understudyd.cell import Cell
from understudyd.guard.words import Lease

__all__ = ["SIGNING", "Page", "Pulse"]

LEASE = struct.Struct("<Qq")  # token, deadline in ns
SIGN = struct.Struct("<Q")  # a number
SIGNERS = ("watcher", "guard", "fencer")
SIGNING = 1.0  # s from one sign of life to the next
SIGNS = Cell.room(LEASE.size)  # where they begin
SIZE = SIGNS + len(SIGNERS) * SIGN.size


class Page:
    def __init__(self, descriptor: int) -> None:
        """Of a descriptor that `create` made, perhaps in another process; it is ours to close."""
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, SIZE)
        self._cell = Cell(self._map, 0, LEASE.size)
        self._lease = self.read()

    @classmethod
    def create(cls) -> Page:
        descriptor = os.memfd_create("understudy-deadline")
        os.ftruncate(descriptor, SIZE)
        return cls(descriptor)

    def read(self) -> Lease:
        _, data = self._cell.read()
        if not data:
            return Lease()
        token, deadline = LEASE.unpack(data)
        return Lease(token, deadline / 1e9)

    def extend(self, deadline: float, token: int) -> None:
        """Raise the deadline, or begin the reign of a higher token; anything older is ignored."""
        lease = self._lease
        if token < lease.token or (token == lease.token and deadline <= lease.deadline):
            return
        self._write(Lease(token, deadline))

    def clear(self) -> None:
        """The reign is over and let go of. By control, or in its stead by who let go."""
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
        self._lease = lease
        self._cell.write(LEASE.pack(lease.token, round(lease.deadline * 1e9)))


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
    return SIGNS + SIGNERS.index(signer) * SIGN.size
