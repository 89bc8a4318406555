"""File locks on filesystems that fail: full, gone, frozen, broken, or not exclusive at all."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from understudyd.lock.file import FileBackend
from understudyd.testing.estate import Clients, Sidecar, SidecarEstate, eventually

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount filesystems"),
]

LEASE = 1.0  # s; of the estate's quick timings
BUDGET = 0.75  # s; the last renewal of a master is no older
ELECTED = "the lock is ours"
EXT4_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2
PIDFD_GETFD = 438  # the same number on all architectures


@contextlib.contextmanager
def mounted(folder: Path, kind: str, *options: str) -> Iterator[Path]:
    """A filesystem of the test's own; ext4 lives in a file."""
    place = folder / "mount"
    place.mkdir()
    source = kind
    if kind == "ext4":
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(16 * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-O", "^has_journal", str(image))
        source, options = str(image), ("-o", "loop", *options)
    done = subprocess.run(
        ["mount", "-t", kind, *options, source, str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"can't mount {kind} here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        _run("umount", "--lazy", str(place))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def running(lock: Path, **options: Any) -> Iterator[SidecarEstate]:
    with SidecarEstate(f"file:{lock}", **options) as estate, Clients(estate):
        yield estate.start()
        assert estate.judge() == []


def _pair(estate: SidecarEstate) -> tuple[Sidecar, Sidecar]:
    master = estate.master()
    standby = estate.other(master)
    standby.until("/readiness")
    estate.reigns()
    return master, standby


@pytest.mark.slow
def test_a_folder_that_is_renamed_ends_the_reign(tmp_path: Path) -> None:
    """Catalogue 52: nobody is master while it is away, and one when it is back."""
    folder = tmp_path / "locks"
    folder.mkdir()
    with running(folder / "lock") as estate:
        master, standby = _pair(estate)
        token = master.token
        folder.rename(tmp_path / "away")
        eventually(lambda: master.said("the broker is dead"))
        time.sleep(1.5 * LEASE)
        assert [node.get("/master")[0] for node in (master, standby)] == [503, 503]
        (tmp_path / "away").rename(folder)
        assert estate.master().token > token


@pytest.mark.slow
def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """Catalogue 53: the heartbeat is written in place; what does not fit is the board's."""
    with mounted(tmp_path, "tmpfs", "-o", "size=256k") as place, running(place / "lock") as estate:
        master, standby = _pair(estate)
        token = master.token
        with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        eventually(lambda: "the board can't be reached" in master.log)
        time.sleep(1.5 * LEASE)
        assert master.is_master
        assert (master.token, standby.said(ELECTED)) == (token, [])
        (place / "filler").unlink()
        eventually(lambda: "the board answers again" in master.log)


def test_a_filesystem_that_fails_ends_the_reign(tmp_path: Path) -> None:
    """Catalogue 54: every read and write is an input/output error; dead at the deadline."""
    with mounted(tmp_path, "ext4") as place, running(place / "lock") as estate:
        master, standby = _pair(estate)
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
        finally:
            os.close(descriptor)
        eventually(lambda: master.said("the broker is dead"))
        assert "could not be renewed in time" in master.log
        time.sleep(1.5 * LEASE)
        assert [node.get("/master")[0] for node in (master, standby)] == [503, 503]
        assert master.stop() == 0
        assert standby.stop() == 0


def test_a_filesystem_that_hangs_ends_the_reign(tmp_path: Path) -> None:
    """Catalogue 55: who writes there can't even be killed. The guard acts at the deadline, APIs
    answer, and there is one master when it goes on."""
    if shutil.which("fsfreeze") is None:
        pytest.skip("fsfreeze is missing: apt-get install util-linux")
    with mounted(tmp_path, "ext4") as place, running(place / "lock") as estate:
        master, standby = _pair(estate)
        token, broker = master.token, master.broker
        _run("fsfreeze", "--freeze", str(place))
        try:
            eventually(lambda: not os.path.exists(f"/proc/{broker}"))
            time.sleep(1.5 * LEASE)
            assert [node.get("/master")[0] for node in (master, standby)] == [503, 503]
        finally:
            _run("fsfreeze", "--unfreeze", str(place))
        eventually(lambda: estate.master().token > token)
        for node in (master, standby):
            assert node.stop() == 0


def test_a_server_that_gives_the_lock_away_is_not_enough(tmp_path: Path) -> None:
    """Catalogue 56, on a filesystem that may be shared: the master goes on as long as it renews,
    and once it does not it is dead before the next, and stays a standby when it is back."""
    with mounted(tmp_path, "ramfs") as place, running(place / "lock") as estate:
        master, standby = _pair(estate)
        token = master.token
        assert _give_away(master, place / "lock")
        time.sleep(2 * LEASE)
        assert master.is_master
        assert (master.token, standby.said(ELECTED)) == (token, [])
        master.signal(signal.SIGSTOP)
        eventually(lambda: standby.is_master)
        if not master.is_running:
            master.start()
        master.signal(signal.SIGCONT)
        master.until("/standby")
        assert standby.is_master
        assert standby.token > token


def _give_away(node: Sidecar, path: Path) -> bool:
    """Unlock the file behind the back of its holder, as a server does that forgets a client."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(node.pid)
    try:
        for name in os.listdir(f"/proc/{node.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{node.pid}/fd/{name}") == str(path):
                    own = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
                    assert own >= 0, os.strerror(ctypes.get_errno())
                    fcntl.flock(own, fcntl.LOCK_UN)
                    os.close(own)
    finally:
        os.close(pidfd)
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # after the standby's look
    return True


def test_where_flock_is_no_proof_a_lease_is_waited(tmp_path: Path) -> None:
    """Catalogue 57, 13: what an overlay or a share unlocks proves no death."""
    with mounted(tmp_path, "ramfs") as place, running(place / "lock") as estate:
        master, standby = _pair(estate)
        dead = master.kill_all()
        eventually(lambda: standby.is_master)
        assert standby.said(ELECTED)[-1] >= dead + LEASE - BUDGET


@pytest.mark.parametrize("kind", ["overlay", "ramfs", "tmpfs", "ext4"])
def test_what_is_local_is_known_by_its_filesystem(kind: str, tmp_path: Path) -> None:
    """Catalogue 57."""
    layers = [tmp_path / "upper", tmp_path / "work"]
    for layer in layers:
        layer.mkdir()
    upper, work = layers
    options = ("-o", f"lowerdir=/usr/share,upperdir={upper},workdir={work}")
    with mounted(tmp_path, kind, *(options if kind == "overlay" else ())) as place:
        backend = FileBackend(place / "lock")
        file = backend._open()
        try:
            assert backend._is_local(file) is (kind in ("tmpfs", "ext4"))
        finally:
            os.close(file.descriptor)
