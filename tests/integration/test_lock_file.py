"""The file lock among real processes: it lives as long as the broker does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudy.testing import wait_until
from understudyd.lock.file import FileBackend, is_local
from understudyd.lock.port import Observation, Unavailable
from understudyd.lock.record import LockRecord, RecordError

pytestmark = pytest.mark.integration

RECORD = LockRecord("g", "a", "a-1", token=1, sequence=1, lease=3.0)

#: a sidecar that takes the lock, starts a "broker" which inherits it, and ends in its own way
SIDECAR = """
import gc, os, subprocess, sys
from dataclasses import replace
from understudyd.lock.file import FileBackend
from understudyd.lock.record import LockRecord

backend = FileBackend(sys.argv[1], local=True)
seen = backend.read()
record = LockRecord("g", "a", "a-1", token=1, sequence=1, lease=3.0, incarnation=seen.incarnation)
assert backend.swap(seen, record).record == record
broker = subprocess.Popen(["sleep", "60"], pass_fds=[backend.descriptor])
print(broker.pid, flush=True)
how = sys.argv[2]
if how == "exit":
    sys.exit(0)
if how == "exception":
    raise RuntimeError("a bug")
if how == "close":
    backend.close()
if how == "garbage":
    del backend
    gc.collect()
print("done", flush=True)
sys.stdin.read()
"""


class Sidecar:
    def __init__(self, path: Path, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SIDECAR, str(path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.broker = int(self.process.stdout.readline())
        if how in ("close", "garbage", "kill"):
            assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        for pid in (self.process.pid, self.broker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Callable[[str], Sidecar]]:
    made: list[Sidecar] = []

    def start(how: str) -> Sidecar:
        made.append(Sidecar(tmp_path / "lock", how))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize("how", ["kill", "exit", "exception", "close", "garbage"])
def test_the_lock_lives_as_long_as_the_broker(
    sidecar: Callable[[str], Sidecar], tmp_path: Path, how: str
) -> None:
    """Catalogue 10, 15, 60: whatever happens to the sidecar, the standby does not get it."""
    one = sidecar(how)
    if how == "kill":
        one.process.kill()
    if how in ("kill", "exit", "exception"):
        one.process.wait(60)
    standby = FileBackend(tmp_path / "lock", local=True)
    seen = standby.read()
    assert seen.record is not None
    assert not seen.is_proven_free
    claim = replace(RECORD, holder="b", instance="b-1", token=2, incarnation=seen.incarnation)
    assert standby.swap(seen, claim).record == seen.record
    assert standby.descriptor is None
    one.process.kill()
    one.process.wait(60)
    os.kill(one.broker, signal.SIGKILL)
    assert wait_until(lambda: standby.read().is_proven_free)
    assert standby.swap(standby.read(), claim).record == claim
    assert standby.descriptor is not None
    standby.close()


def hold(path: Path, *, local: bool = True) -> tuple[FileBackend, Observation]:
    backend = FileBackend(path, local=local)
    seen = backend.read()
    seen = backend.swap(seen, replace(RECORD, incarnation=seen.incarnation))
    assert backend.descriptor is not None
    return backend, seen


@pytest.mark.parametrize("damage", ["delete", "replace"])
def test_a_file_that_was_deleted_or_replaced_is_a_loss(tmp_path: Path, damage: str) -> None:
    """Catalogue 51, L03."""
    path = tmp_path / "lock"
    holder, seen = hold(path)
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        copy.replace(path)
    renewed = holder.swap(seen, replace(RECORD, sequence=2, incarnation=seen.incarnation))
    assert "was deleted or replaced" in renewed.lost
    standby = FileBackend(path, local=True)
    found = standby.read()
    assert not found.is_proven_free  # nobody believes a copy, nor an empty file
    void = replace(RECORD, holder="", instance="b-1", incarnation=found.incarnation)
    assert standby.swap(found, void).record == void
    assert not standby.read().is_proven_free  # nor that nobody holds what was just made
    standby.close()
    holder.close()


@pytest.mark.parametrize("step", ["pwrite", "fdatasync"])
def test_a_claim_whose_write_failed_shows_only_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Catalogue 53, 54: a keeper that recognises it would promote without the lock."""
    path = tmp_path / "lock"
    backend = FileBackend(path, local=True)
    seen = backend.read()
    claim = replace(RECORD, incarnation=seen.incarnation)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(Unavailable):
            backend.swap(seen, claim)
    assert backend.descriptor is None
    other = os.open(path, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    if step == "fdatasync":
        with pytest.raises(Unavailable, match="not the lock"):
            backend.read()
    os.close(other)
    found = backend.read()
    assert found.record == (claim if step == "fdatasync" else None)
    assert (backend.descriptor is not None) == (found.record == claim)
    backend.close()


def test_a_record_that_is_just_being_written_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder, seen = hold(path)
    standby = FileBackend(path, local=True)
    written = path.read_bytes()
    path.write_bytes(written.replace(b'"v":1', b'"v"?1'))
    for call in (standby.read, lambda: standby.swap(seen, RECORD)):
        with pytest.raises(Unavailable, match="being written"):
            call()
    path.write_bytes(written)
    assert standby.read() == seen
    standby.close()
    holder.close()


def test_where_the_file_really_is_decides_whether_flock_is_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in a local folder may lead to a share."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        if os.stat(memory).st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second filesystem beside /dev/shm")
        monkeypatch.setattr("understudyd.lock.file.LOCAL", {"tmpfs"})
        link = Path(memory) / "link"
        link.symlink_to(tmp_path / "lock")
        for path, is_proof in ((link, False), (Path(memory) / "lock", True)):
            holder, _ = hold(path)
            holder.close()
            standby = FileBackend(path)
            assert standby.read().is_proven_free is is_proof
            standby.close()


def test_a_released_lock_is_free_at_once(tmp_path: Path) -> None:
    for local in (True, False):
        path = tmp_path / f"lock-{local}"
        holder, seen = hold(path, local=local)
        tombstone = replace(RECORD, sequence=2, incarnation=seen.incarnation, released=True)
        assert holder.swap(seen, tombstone).record == tombstone
        assert holder.descriptor is None
        standby = FileBackend(path, local=local)
        assert standby.read().is_proven_free
        standby.close()


def test_on_a_network_filesystem_a_free_flock_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder, _ = hold(path, local=False)
    holder.close()
    standby = FileBackend(path, local=False)
    assert not standby.read().is_proven_free
    standby.close()


def test_two_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    """L08."""
    path = tmp_path / "lock"
    holder, seen = hold(path)
    other = FileBackend(path, local=True)
    claim = replace(RECORD, token=2, instance="b-1", incarnation=seen.incarnation)
    assert other.swap(other.read(), claim) == seen
    other.close()
    holder.close()


def open_files() -> list[str]:
    """What this process has open, as far as it is still there."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def test_a_hundred_cycles_leave_no_descriptor(tmp_path: Path) -> None:
    """L07."""
    path = tmp_path / "lock"
    for number in range(100):
        backend = FileBackend(path, local=True)
        seen = backend.read()
        record = replace(RECORD, token=number, sequence=1, incarnation=seen.incarnation)
        seen = backend.swap(seen, record)
        backend.swap(seen, replace(record, sequence=2, released=True))
        backend.close()
    assert str(path) not in open_files()


def test_what_is_no_record_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for content, error in ((b"half", Unavailable), (b"x" * 4096, RecordError)):
        path.write_bytes(content)
        backend = FileBackend(path, local=True)
        with pytest.raises(error):
            backend.read()
        with pytest.raises(error):
            backend.swap(Observation(None, "x"), RECORD)
        assert path.read_bytes() == content
        backend.close()


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """L20: loudly, and not as a standby for ever."""
    with pytest.raises(ConfigurationError, match="does not exist"):
        FileBackend(tmp_path / "nowhere" / "lock")
    assert not is_local(os.stat("/proc").st_dev)
