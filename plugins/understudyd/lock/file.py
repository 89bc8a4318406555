"""A lock in a file: flock, with the holder's record inside.

Rules
* The file is never deleted. Who holds the lock has it flocked, through a descriptor that the guard
  and the broker inherit: while any of them lives, nobody else gets it. So no process ever unlocks
  it (LOCK_UN, or a library's release()), because that would unlock it for all of them; letting go
  is closing the last copy.
* A standby looks by trying: a descriptor of its own, flocked without waiting, closed at once.
* On a filesystem that is known to be local a free flock proves that every process of the last
  holder is dead. Elsewhere a server may have given the lock away, or never had it: there flock is
  necessary and not sufficient, and the record decides as in any other store.
* The inode is the incarnation: a file that was deleted or replaced is another one. Its holder steps
  down; nobody believes what a copy says.
* The record is one block, written in place and synced. A torn one is no record yet: unavailable.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import ConfigurationError
from understudyd.lock.port import Observation, Unavailable
from understudyd.lock.record import LockRecord, RecordError

__all__ = ["FileBackend", "is_local"]

BLOCK = 4096  # bytes of a record, padded
LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"})


@dataclass
class _Open:
    descriptor: int
    incarnation: str


class FileBackend:
    def __init__(self, path: str | Path, *, local: bool | None = None) -> None:
        """``local``: whether a free flock is proof enough; None = look at the filesystem.

        Raises ConfigurationError when the folder is not there or not writable.
        """
        self.path = Path(path)
        folder = self.path.parent
        if not folder.is_dir():
            raise ConfigurationError(f"the lock's folder {folder} does not exist")
        target = self.path if self.path.exists() else folder
        if not os.access(target, os.R_OK | os.W_OK):
            raise ConfigurationError(f"the lock {self.path}: no permission to write {target}")
        self.is_local = is_local(folder) if local is None else local
        self._held: _Open | None = None

    @property
    def descriptor(self) -> int | None:
        """The locked descriptor, to hand on to the guard; None while the lock is not ours."""
        return None if self._held is None else self._held.descriptor

    def read(self) -> Observation:
        with self._errors():
            if self._held is not None:
                return self._look_as_holder(self._held)
            file = self._open()
            try:
                is_ours = _flock(file.descriptor)
                record = _read(file.descriptor)
            finally:
                os.close(file.descriptor)
            is_known = record is not None and record.incarnation == file.incarnation
            return Observation(record, file.incarnation, is_ours and is_known and self.is_local)

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        with self._errors():
            if self._held is not None:
                return self._write_as_holder(self._held, expected, record)
            file = self._open()
            kept = False
            try:
                if not _flock(file.descriptor):
                    return Observation(_read(file.descriptor), file.incarnation)
                there = Observation(_read(file.descriptor), file.incarnation)
                if _is_same(there, expected):
                    _write(file.descriptor, record)
                    there = Observation(record, file.incarnation)
                    kept = not record.is_void and not record.released
                return there
            finally:
                if kept:
                    self._held = file
                else:
                    os.close(file.descriptor)

    def close(self) -> None:
        """Close our copy of the descriptor; the lock stays while the guard or a broker has one."""
        if self._held is not None:
            os.close(self._held.descriptor)
            self._held = None

    # --- as the holder --------------------------------------------------------------------------

    def _look_as_holder(self, held: _Open) -> Observation:
        file = self._open()
        os.close(file.descriptor)
        if file.incarnation != held.incarnation:
            lost = f"the lock file {self.path} was deleted or replaced"
            return Observation(None, file.incarnation, lost=lost)
        return Observation(_read(held.descriptor), held.incarnation)

    def _write_as_holder(
        self, held: _Open, expected: Observation, record: LockRecord
    ) -> Observation:
        there = self._look_as_holder(held)
        if there.lost or not _is_same(there, expected):
            return there
        _write(held.descriptor, record)
        if record.released:
            self.close()
        return Observation(record, held.incarnation)

    # --------------------------------------------------------------------------------------------

    def _open(self) -> _Open:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o660)
        facts = os.fstat(descriptor)
        return _Open(descriptor, f"{facts.st_dev:x}:{facts.st_ino:x}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Unavailable(f"{self.path}: {exc.strerror or exc}") from exc


def is_local(folder: Path) -> bool:
    """Whether ``folder`` is on a filesystem that only this machine can see, as far as is known."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split()[0] in LOCAL
    return False


def _is_same(there: Observation, expected: Observation) -> bool:
    mine, theirs = there.record, expected.record
    if there.incarnation != expected.incarnation or (mine is None) != (theirs is None):
        return False
    if mine is None or theirs is None:
        return True
    return (mine.version, mine.instance, mine.released) == (
        theirs.version,
        theirs.instance,
        theirs.released,
    )


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> LockRecord | None:
    data = os.pread(descriptor, BLOCK, 0)
    text = data.strip(b" \n\0")
    if not text:
        return None
    if len(data) < BLOCK:
        raise Unavailable(f"the lock's record has {len(data)} of {BLOCK} bytes: half written")
    return LockRecord.from_json(text)


def _write(descriptor: int, record: LockRecord) -> None:
    data = record.to_json().encode()
    if len(data) > BLOCK:
        raise RecordError(f"the lock record is too long: {len(data)} bytes of {BLOCK}")
    os.pwrite(descriptor, data.ljust(BLOCK - 1) + b"\n", 0)
    os.fdatasync(descriptor)
