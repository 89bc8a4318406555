"""Clocks that are set, and clocks that have just begun: only rates count, and never values."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import understudyd
from understudy.testing.brokers import Redis
from understudyd.testing.estate import Clients, Sidecar, SidecarEstate, eventually, is_alive

pytestmark = pytest.mark.chaos

HOUR = 3600.0
LEASE = 1.0  # s; of the estate's quick timings
BUDGET = 0.75  # s; the last renewal of a master is no older
ELECTED = "the lock is ours"

# read by each Python process of a node when it starts; what a clock shows is in a file
WALL_CLOCK = """
import os, time
def _ahead():
    with open(os.environ["WALL_CLOCK"]) as file:
        return float(file.read() or 0)
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _ahead()
time.time_ns = lambda: _time_ns() + int(_ahead() * 1e9)
"""
# read by each process of a node, guards and broker too; how long the machine slept is in a file
SLEEPER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *moment)
{
    static int (*real)(clockid_t, struct timespec *);
    static volatile long *slept;
    if (!slept) {
        int file = open(getenv("SLEPT"), O_RDONLY);
        real = dlsym(RTLD_NEXT, "clock_gettime");
        slept = mmap(0, sizeof *slept, PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    int result = real(clock, moment);
    if (clock == CLOCK_BOOTTIME)
        moment->tv_sec += *slept;
    return result;
}
"""
WALL = re.compile(r"\btime\.(time|time_ns|localtime|gmtime)\(|CLOCK_REALTIME|\.(utc)?now\(\)")
ASKED_BY = {  # what may ask for the time of day, to show it or to name a file by it
    "board/file.py": 2,  # a file's name, and how old it looks: the board trusts no age it is told
    "sidecar/control.py": 1,  # when something happened, in the history
}


@contextlib.contextmanager
def set_clocks(estate: SidecarEstate) -> Iterator[dict[str, Path]]:
    """For each node the file that says how many seconds its wall clock is ahead."""
    (estate.folder / "sitecustomize.py").write_text(WALL_CLOCK)
    clocks = {name: estate.folder / f"{name}.clock" for name in estate.nodes}
    for name, clock in clocks.items():
        put(clock, 0)
        path = os.pathsep.join([str(estate.folder), os.environ.get("PYTHONPATH", "")])
        estate[name].prefix = ("env", f"PYTHONPATH={path}", f"WALL_CLOCK={clock}")
    yield clocks


def put(clock: Path, ahead: float) -> None:
    new = clock.with_suffix(".new")
    new.write_text(str(ahead))
    new.replace(clock)


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_a_wall_clock_that_is_set_moves_nothing(
    kind: str, redis_server: Redis, unique: str
) -> None:
    """Catalogue 31, 32, 33: an hour ahead, an hour back, on each node; then there is a takeover
    between clocks that are two hours apart. The Redis measures no time at all."""
    lock = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}" if kind == "redis" else None
    with SidecarEstate(lock) as estate, set_clocks(estate) as clocks, Clients(estate):
        master = estate.start().master()
        other = estate.other(master)
        other.until("/readiness")
        token = master.token
        for node in (master, other):
            for ahead in (HOUR, -HOUR):
                put(clocks[node.name], ahead)
                time.sleep(0.6 * LEASE)
        time.sleep(LEASE)
        assert master.is_master
        assert master.token == token
        assert other.said(ELECTED) == []
        assert len(estate.reigns()) == 1
        if kind == "redis":
            assert _time_to_live(redis_server, unique) == -1
        put(clocks[master.name], HOUR)
        killed = master.kill()
        eventually(lambda: other.is_master)
        (elected,) = other.said(ELECTED)
        assert elected < killed - HOUR / 2  # its clock is an hour back indeed
        assert other.token > token
        eventually(lambda: _told_master(other) == other.name)
        assert estate.judge() == []


def _told_master(node: Sidecar) -> object:
    code, body = node.get("/cluster")
    return json.loads(body)["master"] if code == 200 else None


def _time_to_live(server: Redis, key: str) -> int:
    import redis

    with contextlib.closing(redis.Redis(port=server.port)) as client:
        left: int = client.pttl(key)
        return left


def test_nothing_is_decided_by_the_time_of_day() -> None:
    """Catalogue 31 to 33: who asks for it is known by name."""
    root = Path(understudyd.__file__).parent
    found = {
        str(file.relative_to(root)): len(WALL.findall(file.read_text()))
        for file in root.rglob("*.py")
        if not {"bridge", "testing"} & set(file.parts)  # bridges tell when a message was parked
    }
    assert {name: count for name, count in found.items() if count} == ASKED_BY


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a time namespace")
@pytest.mark.parametrize("kind", [pytest.param("file", marks=pytest.mark.slow), "redis"])
def test_a_machine_that_has_just_booted(kind: str, redis_server: Redis, unique: str) -> None:
    """Catalogue 36: its clocks are near 0, which is no moment at which anything has been seen."""
    lock = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}" if kind == "redis" else None
    with SidecarEstate(lock) as estate, Clients(estate):
        clocks = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
        back = [f"--{name}=-{int(time.clock_gettime(id_))}" for name, id_ in clocks.items()]
        for node in estate.nodes.values():
            node.prefix = ("unshare", "--time", *back)
        begun = time.time()
        master = estate.start().master()
        other = estate.other(master)
        other.until("/readiness")
        (elected,) = master.said(ELECTED)
        assert elected >= begun + LEASE  # what was never seen has to be watched as well
        token = master.token
        dead = master.kill_all()
        eventually(lambda: other.is_master)
        assert other.token > token
        if kind == "redis":
            assert other.said(ELECTED)[-1] >= dead + LEASE - BUDGET
        (first, *_) = estate.reigns(2)
        assert first.begin < 60, "the clocks of its broker are not near 0"
        assert estate.judge() == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt install gcc")
def test_a_master_whose_machine_has_slept_ends_its_reign(redis_server: Redis, unique: str) -> None:
    """Catalogue 37: at once, and not only where it slept for longer than its lease."""
    lock = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    with SidecarEstate(lock, timings="normal") as estate, Clients(estate):
        slept = _may_sleep(estate)
        master = estate.start().master()
        for seconds in (2, int(HOUR)):
            broker, token = master.broker, master.token
            assert broker is not None
            _sleep(slept[master.name], seconds)
            eventually(lambda token=token: estate.master().token > token)  # type: ignore[misc]
            assert not is_alive(broker)
            assert "the machine slept" in master.log
            assert seconds > 2 or "could not be renewed" not in master.log
            master = estate.master()
        assert estate.judge() == []


def _may_sleep(estate: SidecarEstate) -> dict[str, Path]:
    """For each node the file by which it is told how long its machine has slept."""
    library = estate.folder / "sleeper.so"
    source = library.with_suffix(".c")
    source.write_text(SLEEPER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    files = {name: estate.folder / f"{name}.slept" for name in estate.nodes}
    for name, file in files.items():
        file.write_bytes(bytes(8))
        estate[name].prefix = ("env", f"LD_PRELOAD={library}", f"SLEPT={file}")
    return files


def _sleep(file: Path, seconds: int) -> None:
    with file.open("r+b", buffering=0) as there:
        there.write(struct.pack("@l", seconds))
