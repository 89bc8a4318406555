"""The folder of a spool, with real files.

Rules
* One process has the folder, for as long as it holds the lock: flock, which the kernel lets go of
  with the process.
* The folder says whose it is: what was taken for one bridge is not given to another. One that
  holds nothing any more is had by whoever comes.
* A file gets its name when it is whole: whatever has one of ours and says nothing is damaged.
* A file that could not be synced is closed, so that nothing is written to it by way of what the
  kernel believes to be on disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from understudyd.bridge.spool.glance import is_done
from understudyd.bridge.spool.port import SpoolFailed

__all__ = ["Folder"]

OWNER = "spool.json"
LOCK = "lock"
VERSION = 1
NEW = ".new"  # behind the name of a file that is being made
KEPT = 8  # files that stay open
MODE = 0o600  # messages are nobody else's business
_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Folder:
    """`port.Files`, of one owner."""

    def __init__(self, path: Path, owner: Mapping[str, str]) -> None:
        """``owner``: what it is for, in words."""
        self._path = path
        self._owner = dict(owner)
        self._lock: int | None = None
        self._open: dict[str, int] = {}

    def claim(self) -> None:
        """Make the folder where it is missing, and have it for us alone; once is enough.

        Raises OSError, or SpoolFailed where it is another's.
        """
        if self._lock is not None:
            return
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_unfinished()
            self._check_owner()
        except BlockingIOError:
            os.close(lock)
            raise SpoolFailed(f"{self._path} is in use by another process") from None
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock

    def release(self) -> None:
        """Let go of it and of all files."""
        for name in list(self._open):
            self._close(name)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def names(self) -> list[str]:
        with os.scandir(self._path) as found:
            return [one.name for one in found if one.is_file(follow_symlinks=False)]

    def create(self, name: str, size: int, head: bytes) -> None:
        new = name + NEW
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._close(new)
        self._open[new] = os.open(self._path / new, flags, MODE)
        try:
            self._reserve(new, size)
            self.write(new, 0, head)
            self.sync(new)
            self.rename(new, name)
            self._sync_folder()
        except BaseException:
            for one in (new, name):
                self._close(one)
                with contextlib.suppress(OSError):
                    (self._path / one).unlink()
            raise

    def size(self, name: str) -> int:
        return os.stat(self._path / name).st_size

    def read(self, name: str, at: int, size: int) -> bytes:
        file, pieces = self._file(name), []
        while size > 0 and (piece := os.pread(file, size, at)):
            pieces.append(piece)
            at, size = at + len(piece), size - len(piece)
        return b"".join(pieces)

    def write(self, name: str, at: int, data: bytes) -> None:
        file, left = self._file(name), memoryview(data)
        while left:
            written = os.pwrite(file, left, at)
            at, left = at + written, left[written:]

    def sync(self, name: str) -> None:
        try:
            os.fsync(self._file(name))
        except OSError:
            self._close(name)
            raise

    def cut(self, name: str, size: int) -> None:
        os.ftruncate(self._file(name), size)

    def rename(self, name: str, other: str) -> None:
        self._close(name)
        self._close(other)
        (self._path / name).rename(self._path / other)

    def delete(self, name: str) -> None:
        self._close(name)
        (self._path / name).unlink()

    def _check_owner(self) -> None:
        said = {"version": VERSION, **self._owner}
        path = self._path / OWNER
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._say(said)
            return
        except ValueError:
            raise SpoolFailed(f"{path} cannot be read: is this the folder of a spool?") from None
        if found != said and found.get("version") == VERSION and is_done(self._path):
            self._say(said)
        elif found != said:
            differs = [key for key in said if found.get(key) != said[key]]
            theirs = ", ".join(f"{key} {found.get(key)!r}" for key in differs)
            ours = ", ".join(f"{key} {said[key]!r}" for key in differs)
            raise SpoolFailed(
                f"{self._path} holds messages of another: {theirs}, and here it is {ours}; "
                "configure it as it was until the spool is empty, or name another folder"
            )

    def _say(self, whose: Mapping[str, object]) -> None:
        self.create(OWNER, 0, json.dumps(whose, indent=1).encode())

    def _remove_unfinished(self) -> None:
        for name in self.names():
            if name.endswith(NEW):
                self.delete(name)

    def _reserve(self, name: str, size: int) -> None:
        """Take the room on the disk; where the filesystem cannot, it is taken as it is used."""
        os.ftruncate(self._file(name), size)
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file(name), 0, size)
            except OSError as error:
                if error.errno not in _NO_SUCH_CALL:
                    raise

    def _sync_folder(self) -> None:
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _file(self, name: str) -> int:
        if name not in self._open:
            while len(self._open) >= KEPT:
                self._close(next(iter(self._open)))
            self._open[name] = os.open(self._path / name, os.O_RDWR | os.O_CLOEXEC)
        return self._open[name]

    def _close(self, name: str) -> None:
        if (file := self._open.pop(name, None)) is not None:
            with contextlib.suppress(OSError):
                os.close(file)
