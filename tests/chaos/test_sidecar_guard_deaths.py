"""Whatever dies, and in whatever company: the lock is not free before the broker is dead."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.testing.background import Background
from understudy.testing.brokers import Redis
from understudyd.guard.cgroup import Group
from understudyd.lock.file import FileBackend
from understudyd.lock.open import open_backend
from understudyd.lock.port import LockBackend, Unavailable
from understudyd.testing.guarded import GROUP, TREE, Guarded, wait_until

pytestmark = pytest.mark.chaos

# so much memory takes a while to give back: a lock that is let go early is seen to be
HEAVY = (
    "python3",
    "-c",
    "import fcntl, os, time\n"
    "memory = bytearray(os.urandom(4096)) * 75_000\n"
    "proof = open(os.environ['ALIVE'])\n"
    "fcntl.flock(proof, fcntl.LOCK_EX)\n"
    "time.sleep(1000)\n",
)


@pytest.fixture(scope="module")
def redis_uri() -> Iterator[str]:
    with Redis() as server:
        yield server.uri


@pytest.fixture(params=["file", "redis"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file:{tmp_path}/lock"
    base: str = request.getfixturevalue("redis_uri")
    return f"{base}?key=understudy:{tmp_path.name}"


class Standby:
    """Waits for the lock, and looks in that moment whether the broker is alive."""

    def __init__(self, control: Guarded) -> None:
        self._control = control
        self._backend = self._open()
        self._call = Background(self._wait)

    def join(self) -> None:
        self._call.join(60)

    def _open(self) -> LockBackend:
        if self._control.uri.startswith("file:"):
            return FileBackend(self._control.uri.partition(":")[2], local=True)
        return open_backend(self._control.uri, GROUP, 5.0)

    def _wait(self) -> None:
        wait_until(self._is_free, 50)
        assert not self._control.witness.is_alive, "the lock was free while the broker lived"
        self._backend.close()

    def _is_free(self) -> bool:
        try:
            return self._backend.read().is_proven_free
        except Unavailable:  # its record is just being written
            return False


@pytest.mark.parametrize("end", ["SIGKILL", "exit", "raise", "exec"])
def test_control_ends_without_a_goodbye(end: str, uri: str, tmp_path: Path) -> None:
    """Catalogue 10: the guard kills, reaps, and lets go at once."""
    with Guarded(uri, tmp_path, HEAVY) as control:
        control.launch()
        standby = Standby(control)
        control.kill("control") if end == "SIGKILL" else control.tell(end)
        if end == "exec":  # what runs there now does not know that it has the lock's descriptor
            wait_until(lambda: not control.witness.is_alive)
            control.kill("control")
        standby.join()
        assert control.is_gone("guard", 30)
        assert control.is_gone("watcher", 30)


def test_control_forgets_its_guard(tmp_path: Path) -> None:
    """Garbage collection is such an end too; the lock stays while control has it open."""
    with Guarded(f"file:{tmp_path}/lock", tmp_path, HEAVY) as control:
        control.launch()
        standby = Standby(control)
        control.tell("collect")
        assert control.is_gone("guard", 30)
        assert not control.witness.is_alive
        control.kill("control")
        standby.join()


@pytest.mark.parametrize("other", ["", "guard", "watcher"])
def test_control_dies_alone_or_with_one_of_the_guards(other: str, uri: str, tmp_path: Path) -> None:
    """Catalogue 10, 12, 15: who is left kills all, of whatever session and user, and lets go."""
    with Guarded(uri, tmp_path, TREE) as control:
        control.launch()
        standby = Standby(control)
        control.kill("control", *([other] if other else []))
        standby.join()
        assert control.is_gone("guard", 30)
        assert control.is_gone("watcher", 30)


@pytest.mark.parametrize("company", [("guard",), ("watcher",), ("guard", "watcher")])
def test_guards_die_and_control_is_told(company: tuple[str, ...], tmp_path: Path) -> None:
    """Catalogue 11: fenced before control is told, and then there are new ones."""
    with Guarded(f"file:{tmp_path}/lock", tmp_path, TREE) as control:
        control.launch()
        standby = Standby(control)
        control.kill(*company)
        assert control.wait("Dead")["left"] == []
        assert not control.witness.is_alive
        control.wait("GuardLost")
        control.tell("start")
        control.wait("Up")
        control.launch()
        control.kill("control")
        standby.join()


def test_all_three_die_together(tmp_path: Path) -> None:
    """Catalogue 13: what is left keeps the lock, until another guard starts on this machine."""
    with Guarded(f"file:{tmp_path}/lock", tmp_path, TREE) as control:
        broker = control.launch()
        handle = os.pidfd_open(broker)
        standby = Standby(control)
        control.kill("control", "guard", "watcher")
        assert select.select([handle], [], [], 30)[0], "the broker's first process dies at once"
        os.close(handle)
        # one that is still dying has the cgroup locked, and nobody would empty it
        assert all(control.is_gone(name, 30) for name in ("guard", "watcher"))
        own = Group.create()
        if own is None:
            control.kill_broker()  # without a cgroup they can't be told from others
        else:
            own.remove()
        standby.join()


def test_a_broker_that_forks_all_the_time(uri: str, tmp_path: Path) -> None:
    fork = "for n in $(seq 5000); do setsid sleep 1000 & done; wait"
    busy = ("sh", "-c", f'exec 9<>"$ALIVE"; flock 9; ({fork}) & ({fork}) & wait')
    with Guarded(uri, tmp_path, busy) as control:
        control.launch()
        standby = Standby(control)
        wait_until(lambda: len(control.broker()) > 100)
        control.kill("control")
        standby.join()
        assert not control.broker()
