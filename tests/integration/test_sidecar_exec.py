"""Brokers that commands start and stop: promote, demote and fence."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing import witness
from understudyd.testing.estate import (
    Clients,
    Sidecar,
    SidecarEstate,
    children,
    command_line,
    eventually,
)

pytestmark = pytest.mark.chaos

TIMINGS = {"lease": "2s", "renew": "200ms", "attempt": "150ms", "kill": "300ms", "margin": "50ms"}


def commands(node: Sidecar) -> Mapping[str, Any]:
    """A witness that is nobody's child, with its pid in a file."""
    folder = node.estate.folder
    run = witness.command(node.port.number, node.estate.book)
    pid = folder / f"{node.name}.pid"
    gone = f"while readlink /proc/$(cat {pid})/exe; do sleep 0.01; done; rm -f {pid}"
    end = f"test -f {pid} || exit 0; kill -%s $(cat {pid}) 2>/dev/null; {gone}"
    return {
        "driver": "exec",
        "promote": ["sh", "-c", f"setsid {' '.join(run)} >/dev/null 2>&1 & echo $! > {pid}"],
        "demote": ["sh", "-c", end % "TERM"],
        "fence": ["sh", "-c", end % "KILL"],
    }


@pytest.fixture(params=["file", "redis"])
def estate(request: pytest.FixtureRequest, unique: str) -> Iterator[SidecarEstate]:
    lock = None
    if request.param == "redis":
        redis: Redis = request.getfixturevalue("redis_server")
        lock = f"redis://127.0.0.1:{redis.port}/0?key={unique}"
    with (
        SidecarEstate(lock, timings=TIMINGS, broker={"command": None}, per_node=commands) as estate,
        Clients(estate),
    ):
        try:
            yield estate.start()
            assert estate.judge() == []
        finally:
            _end_witnesses(estate)


def _end_witnesses(estate: SidecarEstate) -> None:
    for file in estate.folder.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def broker(node: Sidecar) -> int:
    return int((node.estate.folder / f"{node.name}.pid").read_text())


def kill_sidecar(node: Sidecar) -> None:
    node.kill()


def freeze_sidecar(node: Sidecar) -> None:
    node.signal(signal.SIGSTOP)


def kill_broker(node: Sidecar) -> None:
    os.kill(broker(node), signal.SIGKILL)


def fencer(node: Sidecar) -> int:
    (pid,) = (pid for pid in children(node.pid) if "fencer" in command_line(pid))
    return pid


def kill_fencer(node: Sidecar) -> None:
    os.kill(fencer(node), signal.SIGKILL)


def kill_fencer_and_sidecar(node: Sidecar) -> None:
    """Before either sees the other die."""
    pids = (fencer(node), node.pid)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
    node.kill()


def freeze_fencer_and_sidecar(node: Sidecar) -> None:
    freeze_sidecar(node)
    os.kill(fencer(node), signal.SIGSTOP)


def kill_fencer_and_freeze_sidecar(node: Sidecar) -> None:
    pid = fencer(node)
    freeze_sidecar(node)
    os.kill(pid, signal.SIGKILL)


def stop_sidecar(node: Sidecar) -> None:
    assert node.stop() == 0


@pytest.mark.parametrize(
    "death",
    [
        kill_sidecar,
        freeze_sidecar,
        kill_broker,
        kill_fencer,
        kill_fencer_and_sidecar,
        kill_fencer_and_freeze_sidecar,
        freeze_fencer_and_sidecar,
        stop_sidecar,
    ],
)
def test_another_node_takes_over(estate: SidecarEstate, death: Callable[[Sidecar], None]) -> None:
    """Catalogue 9, 10, 19, 21: fenced by its command, before the other is promoted."""
    master = estate.master()
    assert master.status["broker"]["pid"] is None  # nobody knows what its commands started
    other = estate.other(master)
    other.until("/standby")
    old = broker(master)
    death(master)
    eventually(lambda: other.is_master)
    with pytest.raises(OSError, match="No such"):  # of a dead one that nobody has reaped too
        os.readlink(f"/proc/{old}/exe")
