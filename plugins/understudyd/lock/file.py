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
  down; nobody believes what a copy says, and a void record there proves nothing: whoever has the
  deleted file locked may live.
* The record is one block, written in place and synced. A torn one is no record yet: unavailable.
  Reading while the holder writes may tear it too.
* A claim whose write failed may be in the file nevertheless. It shows only together with the lock.
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
    device: int
    incarnation: str

    @classmethod
    def of(cls, descriptor: int) -> _Open:
        facts = os.fstat(descriptor)
        return cls(descriptor, facts.st_dev, f"{facts.st_dev:x}:{facts.st_ino:x}")


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
        self._local = local
        self._held: _Open | None = None
        self._doubtful: LockRecord | None = None  # a claim that was perhaps written

    @property
    def descriptor(self) -> int | None:
        """The locked descriptor, to hand on to the guard; None while the lock is not ours."""
        return None if self._held is None else self._held.descriptor

    def adopt(self, descriptor: int) -> None:
        """Be the holder by an inherited copy, which is ours to close from now on."""
        self.close()
        os.set_inheritable(descriptor, False)
        self._held = _Open.of(descriptor)

    def read(self) -> Observation:
        if self._held is not None:
            with self._errors():
                return self._look_as_holder(self._held)
        with self._errors(), self._opened() as file:
            is_ours = _flock(file.descriptor)
            record = _look(file.descriptor, is_ours)
            is_known = record is not None and record.incarnation == file.incarnation
            if is_known and record == self._doubtful:
                if not is_ours:
                    raise Unavailable(f"{self.path}: our claim is there, but not the lock")
                self._held, self._doubtful = file, None
                return Observation(record, file.incarnation)
            is_proof = is_ours and is_known and record is not None and not record.is_void
            return Observation(record, file.incarnation, is_proof and self._is_local(file))

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        if self._held is not None:
            with self._errors():
                return self._write_as_holder(self._held, expected, record)
        with self._errors(), self._opened() as file:
            is_ours = _flock(file.descriptor)
            there = Observation(_look(file.descriptor, is_ours), file.incarnation)
            if not is_ours or not _is_same(there, expected):
                return there
            is_claim = not record.is_void and not record.released
            self._doubtful = record if is_claim else None
            _write(file.descriptor, record)
            self._doubtful = None
            if is_claim:
                self._held = file
            return Observation(record, file.incarnation)

    def close(self) -> None:
        """Close our copy of the descriptor; the lock stays while the guard or a broker has one."""
        if self._held is not None:
            os.close(self._held.descriptor)
            self._held = None

    def await_change(self) -> None:
        """Block until nobody has the lock; for a moment we have a part of it then."""
        with self._errors():
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            finally:
                os.close(descriptor)

    # --- as the holder --------------------------------------------------------------------------

    def _look_as_holder(self, held: _Open) -> Observation:
        there = ""  # deleted; to make a new one is for whoever may hold it
        with contextlib.suppress(FileNotFoundError):
            file = self._open(0)
            os.close(file.descriptor)
            there = file.incarnation
        if there != held.incarnation:
            lost = f"the lock file {self.path} was deleted or replaced"
            return Observation(None, there, lost=lost)
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

    def _open(self, also: int = os.O_CREAT) -> _Open:
        return _Open.of(os.open(self.path, os.O_RDWR | os.O_CLOEXEC | also, 0o660))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_Open]:
        """A descriptor for a moment, unless it becomes the one that is held."""
        file = self._open()
        try:
            yield file
        finally:
            if self._held is not file:
                os.close(file.descriptor)

    def _is_local(self, file: _Open) -> bool:
        return is_local(file.device) if self._local is None else self._local

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Unavailable(f"{self.path}: {exc.strerror or exc}") from exc


def is_local(device: int) -> bool:
    """Whether this is a filesystem that only this machine can see, as far as is known.

    Asked for each lock that is found free: a share may be mounted later than we start, and the
    path be a link.
    """
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


def _look(descriptor: int, is_ours: bool) -> LockRecord | None:
    """The record, which its holder may just be writing where the lock is not ours."""
    try:
        return _read(descriptor)
    except RecordError as exc:
        if is_ours:
            raise
        raise Unavailable(f"the lock is being written: {exc}") from exc


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
