"""A cgroup of the broker's own, where we may make one: killed as a whole, by the kernel at once.

Rules
* It is only the faster and the surer way; whether all are dead is proven by `tree` in any case, and
  where no cgroup can be made (no v2, no permission, read-only in a container) nothing is lost.
* Both guards have the folder locked. One that nobody has locked is left over from guards that died
  with their control: whoever starts next on this machine kills what is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Group"]

PREFIX = "understudy-"


class Group:
    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def create(cls) -> Group | None:
        """Below our own cgroup; None where that can't be."""
        with contextlib.suppress(OSError):
            parent = _own()
            if parent is not None:
                _sweep(parent)
                folder = parent / f"{PREFIX}{os.urandom(8).hex()}"
                folder.mkdir()
                lock = _locked(folder)
                if lock is not None:
                    if folder.exists():
                        return cls(folder, lock)
                    os.close(lock)  # somebody's sweep was quicker
        return None

    def enter(self) -> None:
        """This process, and all that it will start. Raises OSError."""
        (self.folder / "cgroup.procs").write_text("0")

    def kill(self, spared: Iterable[int]) -> None:
        """All but these, which leave it."""
        with contextlib.suppress(OSError):
            for pid in spared:
                (self.folder.parent / "cgroup.procs").write_text(str(pid))
            (self.folder / "cgroup.kill").write_text("1")

    def members(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]
        return []

    def remove(self) -> None:
        """When all are dead."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _own() -> Path | None:
    """Our own cgroup's folder, in version 2."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    for line in mounts:
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            root, point = before.split()[3:5]
            break
    else:
        return None
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        if line.startswith("0::"):
            return Path(point) / os.path.relpath(line[3:], root)
    return None


def _locked(folder: Path) -> int | None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = _locked(folder)
            if lock is None:
                continue
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
                folder.rmdir()  # fails while they are dying; the next sweep takes it
            os.close(lock)
