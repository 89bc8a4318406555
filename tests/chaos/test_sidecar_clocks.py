"""Clocks that are set, and clocks that have just begun: only rates count, and never values."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import understudyd
from understudy.testing.brokers import Redis
from understudyd.testing import witness
from understudyd.testing.estate import Clients, Sidecar, SidecarEstate, eventually

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
        assert len(witness.intervals(estate.book)) == 1
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
        if "testing" not in file.parts
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
        (first, *_) = witness.intervals(estate.book)
        assert first.begin < 60, "the clocks of its broker are not near 0"
        assert estate.judge() == []
