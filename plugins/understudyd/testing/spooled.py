"""A folder in memory for the tests of spools: it can be full, fail to sync, and die."""

from __future__ import annotations

import errno
from random import Random

__all__ = ["MemoryFiles"]


class MemoryFiles:
    """The port of a spool. What was synced survives `die`; of the rest any part may."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.on_disk: dict[str, bytes] = {}
        self.seen: dict[str, bytearray] = {}  # as the kernel shows it
        self._dirty: dict[str, list[tuple[int, int]]] = {}
        self.room: int | None = None
        """Bytes of all files; None: as many as wanted."""
        self.fails: set[str] = set()
        """Names of methods that raise, once each."""

    def names(self) -> list[str]:
        return list(self.seen)

    def create(self, name: str, size: int, head: bytes) -> None:
        self._fail("create")
        for place in (self.seen, self.on_disk, self._dirty):
            place.pop(name, None)
        if self.room is not None and self._used + max(size, len(head)) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.seen[name] = bytearray(head.ljust(size, b"\0"))
        self.on_disk[name] = bytes(self.seen[name])

    def size(self, name: str) -> int:
        return len(self.seen[name])

    def read(self, name: str, at: int, size: int) -> bytes:
        self._fail("read")
        return bytes(self.seen[name][at : at + size])

    def write(self, name: str, at: int, data: bytes) -> None:
        if "write" in self.fails:
            data = data[: self._rng.randint(0, len(data))]
        file = self.seen[name]
        if at > len(file):
            file.extend(bytes(at - len(file)))
        file[at : at + len(data)] = data
        self._dirty.setdefault(name, []).append((at, at + len(data)))
        self._fail("write")

    def sync(self, name: str) -> None:
        """After a failure any part is on disk, and the rest is given up: the kernel shows it, and
        does not write it any more."""
        self._write_down(name, is_torn="sync" in self.fails)
        self._fail("sync")

    def cut(self, name: str, size: int) -> None:
        self._fail("cut")
        del self.seen[name][size:]
        self.on_disk[name] = self.on_disk[name][:size]

    def rename(self, name: str, other: str) -> None:
        self.seen[other] = self.seen.pop(name)
        self.on_disk[other] = self.on_disk.pop(name)
        self._dirty.pop(name, None)

    def delete(self, name: str) -> None:
        self._fail("delete")
        del self.seen[name]
        del self.on_disk[name]
        self._dirty.pop(name, None)

    def die(self) -> None:
        """The machine stops: of what was not synced any bytes are there."""
        for name in list(self._dirty):
            self._write_down(name, is_torn=True)
        self.seen = {name: bytearray(data) for name, data in self.on_disk.items()}
        self.fails.clear()

    def wipe(self) -> None:
        """Somebody deletes it all."""
        for place in (self.seen, self.on_disk, self._dirty):
            place.clear()

    @property
    def _used(self) -> int:
        return sum(map(len, self.seen.values()))

    def _write_down(self, name: str, *, is_torn: bool) -> None:
        """What was written since the last time; torn: some pages of it, cut anywhere."""
        seen = self.seen[name]
        disk = bytearray(self.on_disk[name].ljust(len(seen), b"\0"))
        for at, end in self._dirty.pop(name, []):
            end = min(end, len(seen))
            while at < end:
                upto = min(end, at + self._rng.choice((1, 7, 64, 512)))
                if not is_torn or self._rng.random() < 0.5:
                    disk[at:upto] = seen[at:upto]
                at = upto
        self.on_disk[name] = bytes(disk)

    def _fail(self, method: str) -> None:
        if method in self.fails:
            self.fails.discard(method)
            raise OSError(errno.EIO, "Input/output error")
