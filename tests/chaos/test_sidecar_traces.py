"""What sidecars leave where they have been: nothing; and what a standby touches: nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudyd.testing.estate import Clients, Sidecar, SidecarEstate, eventually

pytestmark = pytest.mark.chaos

LEASE = 1.0  # s; of the estate's quick timings
IN_ANYTHING = 0xFFF


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[int]:
    """A descriptor that has something to read when this folder, or what is in it, is touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        watch = libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_ANYTHING)
        assert watch >= 0, os.strerror(ctypes.get_errno())
        yield descriptor
    finally:
        os.close(descriptor)


def _touches(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def test_a_standby_never_opens_the_store(tmp_path: Path) -> None:
    """I7: only who has the lock does, when it is promoted."""
    with SidecarEstate(more={"store": str(tmp_path)}) as estate, Clients(estate):
        master = estate.start().master()
        standby = estate.other(master)
        standby.until("/readiness")
        with watched(tmp_path) as descriptor:
            time.sleep(1.5 * LEASE)
            assert _touches(descriptor) == b""
            master.kill()
            eventually(lambda: standby.is_master)
            assert _touches(descriptor)
            master.start().until("/readiness")
            _touches(descriptor)
            time.sleep(LEASE)
            assert _touches(descriptor) == b""
        assert estate.judge() == []


@pytest.mark.slow
def test_nothing_is_left_of_what_has_ended() -> None:
    """I8: no process, and neither descriptors nor threads that grow with each reign."""
    broker = {"stop_timeout": "300ms"}  # a helper that goes on is waited for
    with (
        SidecarEstate(witness_options=["--helper"], broker=broker) as estate,
        Clients(estate),
    ):
        mark = f"ESTATE={estate.folder}"
        estate.environment["ESTATE"] = str(estate.folder)
        first = estate.start().master()
        other = estate.other(first)
        held = []
        for _ in range(3):
            for giver, taker in ((first, other), (other, first)):
                taker.until("/readiness")
                giver.move(taker)
                taker.until("/master")
            other.until("/readiness")
            held.append([_held(node) for node in (first, other)])
        pid = first.broker
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: other.is_master)
        assert len(_marked(mark)) > 8
        for node in (first, other):
            assert node.stop() == 0
        eventually(lambda: not _marked(mark))
        _, before, after = held
        for node_before, node_after in zip(before, after, strict=True):
            assert node_after <= node_before + 2, "more than a hook or a look that was under way"
        assert estate.judge() == []


def _held(node: Sidecar) -> int:
    """Descriptors and threads of the sidecar and its guards."""
    places = [Path(f"/proc/{pid}/{what}") for pid in (node.pid, *node.guards) for what in _HELD]
    return sum(len(list(place.iterdir())) for place in places)


_HELD = ("fd", "task")


def _marked(mark: str) -> list[int]:
    """Processes that have this in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
