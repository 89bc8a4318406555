"""A cell of memory that processes share: written by one, read by any number, without a lock.

Rules
* A reader never waits, whatever the writer does. A cell has two slots, written in turn; a reader
  takes the newest that is whole, by its sums.
* A writer may be killed between any two bytes. Then the last whole slot counts: what was written
  before, or what it was about to write.
* There is one writer at a time; another may follow it, in another process.
"""

from __future__ import annotations

import mmap
import struct
import zlib

__all__ = ["Cell"]

HEAD = struct.Struct("=QIIQ")  # sequence, length, sum of the data, sum of the three
ROUNDS = 5  # a slot that changes while it is read was written twice meanwhile: look again


class Cell:
    def __init__(self, memory: mmap.mmap, offset: int, size: int) -> None:
        """For data of ``size`` bytes at the most; memory of zeros is an empty one."""
        self._memory = memory
        self._offsets = (offset, offset + HEAD.size + size)
        self._size = size

    @staticmethod
    def room(size: int) -> int:
        """Bytes of memory that it takes."""
        return 2 * (HEAD.size + size)

    def write(self, data: bytes) -> None:
        """Raises ValueError for what is too large."""
        if len(data) > self._size:
            raise ValueError(f"{len(data)} bytes do not fit into {self._size}")
        heads = [self._head(offset) for offset in self._offsets]
        sequence = max(head[0] for head in heads) + 1
        offset = self._offsets[heads[0][0] > heads[1][0]]
        begin = offset + HEAD.size
        HEAD.pack_into(self._memory, offset, 0, 0, 0, 0)  # nobody shall read it meanwhile
        self._memory[begin : begin + len(data)] = data
        facts = (sequence, len(data), zlib.crc32(data))
        HEAD.pack_into(self._memory, offset, *facts, _sum(*facts))

    def read(self, known: int = 0) -> tuple[int, bytes]:
        """Sequence and data of the newest whole slot, if it is newer than the known one; else the
        known one and no data."""
        for _ in range(ROUNDS):
            found = [(*self._head(offset), offset) for offset in self._offsets]
            sequence, length, total, offset = max(found)
            if sequence <= known:
                break
            begin = offset + HEAD.size
            data = self._memory[begin : begin + length]
            if zlib.crc32(data) == total:
                return sequence, data
        return known, b""

    def _head(self, offset: int) -> tuple[int, int, int]:
        """(0, 0, 0) for a slot that is empty or being written."""
        sequence, length, total, check = HEAD.unpack_from(self._memory, offset)
        if check != _sum(sequence, length, total) or length > self._size:
            return 0, 0, 0
        return sequence, length, total


def _sum(sequence: int, length: int, total: int) -> int:
    return zlib.crc32(struct.pack("=QII", sequence, length, total)) if sequence else 0
