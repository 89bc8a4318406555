"""What stands still, and what can't be killed: the broker never outlives its deadline."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudyd.lock.file import FileBackend
from understudyd.testing.estate import is_alive
from understudyd.testing.guarded import TREE, Guarded, wait_until

pytestmark = pytest.mark.chaos

FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file:{tmp_path}/lock"


def is_free(tmp_path: Path) -> bool:
    backend = FileBackend(tmp_path / "lock", local=True)
    try:
        return backend.read().is_free
    finally:
        backend.close()


def test_a_control_that_is_frozen_past_its_deadline_loses_its_broker(
    uri: str, tmp_path: Path
) -> None:
    """Catalogue 21: and thawed it hears of it, before it can do anything else."""
    with Guarded(uri, tmp_path, TREE, lease=4.0) as control:
        control.launch()
        control.freeze("control")
        wait_until(lambda: not control.witness.is_alive)
        control.thaw("control")
        dead = control.wait("Dead")
        assert (dead["left"], dead["cause"]) == ([], "the deadline has passed")
        control.tell("extend 60")  # an answer from before the freeze comes too late
        control.tell("launch")
        assert control.wait("Dead")["cause"] == "refused: this reign has been ended"


def test_a_control_that_stays_frozen_does_not_keep_the_lock(uri: str, tmp_path: Path) -> None:
    """Its own copy of the lock's descriptor would; so it is ended."""
    with Guarded(uri, tmp_path, lease=4.0) as control:
        control.launch()
        control.freeze("control")
        wait_until(lambda: is_free(tmp_path))
        assert control.is_gone("control")
        assert not control.witness.is_alive


def test_a_control_that_is_frozen_for_less_changes_nothing(uri: str, tmp_path: Path) -> None:
    """Catalogue 22."""
    with Guarded(uri, tmp_path, lease=60.0) as control:
        control.launch()
        control.freeze("control")
        assert not control.is_gone("guard", 0.5)
        control.thaw("control")
        control.tell("extend 60")
        assert control.witness.is_alive
        assert not is_free(tmp_path)


@pytest.mark.parametrize(
    ("frozen", "dead"),
    [
        ("watcher", ("control",)),
        ("watcher", ("guard", "control")),
        ("guard", ("watcher", "control")),
    ],
)
def test_who_is_frozen_when_all_others_die_goes_on(
    frozen: str, dead: tuple[str, ...], uri: str, tmp_path: Path
) -> None:
    """Else the broker would outlive its deadline, or a frozen watcher keep the lock."""
    with Guarded(uri, tmp_path, TREE) as control:
        control.launch()
        control.freeze(frozen)
        control.kill(*dead)
        wait_until(lambda: is_free(tmp_path))
        assert not control.witness.is_alive


@pytest.mark.parametrize("name", ["guard", "watcher"])
def test_a_frozen_guard_is_found_out_and_replaced(name: str, uri: str, tmp_path: Path) -> None:
    """Catalogue 23: it owes control a sign of life."""
    with Guarded(uri, tmp_path, TREE) as control:
        control.launch()
        control.freeze(name)
        while not control.is_gone(name, 0.2):
            control.tell("extend 60")
        assert control.wait("Dead")["left"] == []
        assert not control.witness.is_alive
        assert "was frozen" in control.wait("GuardLost")["cause"]
        control.tell("start")
        control.wait("Up")
        control.launch()


@pytest.mark.parametrize("also", [(), ("control",)])
def test_a_guard_that_is_frozen_at_the_deadline_is_stood_in_for(
    also: tuple[str, ...], uri: str, tmp_path: Path
) -> None:
    """Catalogue 23: the watcher acts, also when control is frozen with it."""
    with Guarded(uri, tmp_path, TREE, lease=4.0) as control:
        control.launch()
        control.freeze("guard", *also)
        wait_until(lambda: not control.witness.is_alive)
        assert control.is_gone("guard", 30)
        control.thaw(*also)
        assert control.wait("Dead")["cause"] == "its guard was lost"
        control.wait("GuardLost")


def test_a_guard_that_is_frozen_when_control_dies_is_stood_in_for(uri: str, tmp_path: Path) -> None:
    with Guarded(uri, tmp_path, TREE) as control:
        control.launch()
        control.freeze("guard")
        control.kill("control")
        wait_until(lambda: is_free(tmp_path))
        assert not control.witness.is_alive


def test_all_frozen_and_thawed_past_the_deadline(uri: str, tmp_path: Path) -> None:
    """Catalogue 24: as a container's freezing does."""
    with Guarded(uri, tmp_path, lease=5.0) as control:
        broker = control.launch()
        control.freeze("control", "guard", "watcher")
        os.kill(broker, signal.SIGSTOP)
        time.sleep(6)  # past the deadline is what this is about
        assert control.witness.is_alive
        control.thaw("watcher", "guard", "control")
        with contextlib.suppress(ProcessLookupError):
            os.kill(broker, signal.SIGCONT)
        assert control.wait("Dead")["left"] == []
        assert not control.witness.is_alive


@pytest.mark.parametrize("order", ["launch", "kill"])
def test_frozen_between_decision_and_order(order: str, uri: str, tmp_path: Path) -> None:
    """Catalogue 29, 30: the order that comes after the deadline finds it passed."""
    with Guarded(uri, tmp_path, lease=3.0) as control:
        if order == "kill":
            control.launch()
        control.freeze("control")
        control.tell(order)
        if order == "kill":
            wait_until(lambda: not control.witness.is_alive)
        else:
            time.sleep(3.5)
        control.thaw("control")
        cause = "the deadline has passed"
        assert control.wait("Dead")["cause"].endswith(cause)
        assert not control.witness.is_alive


def test_a_broker_deaf_to_sigterm_is_killed_in_time(uri: str, tmp_path: Path) -> None:
    """Catalogue 16."""
    with Guarded(uri, tmp_path, TREE) as control:
        control.launch()
        control.tell("stop 0.5")
        assert control.wait("Fencing")["cause"] == "it did not stop in time"
        assert control.wait("Dead")["left"] == []
        assert not control.witness.is_alive


def test_a_broker_that_stops_by_itself_leaves_nothing_behind(uri: str, tmp_path: Path) -> None:
    """Catalogue 9, 15."""
    leaver = ("sh", "-c", TREE[2].replace("trap '' TERM; ", "").replace("while", "exit 3; while"))
    with Guarded(uri, tmp_path, leaver) as control:
        control.tell("launch")
        assert control.wait("Exited")["status"] == 3
        dead = control.wait("Dead")
        assert (dead["left"], dead["cause"]) == ([], "it ended")
        assert not control.witness.is_alive
        control.tell("launch")  # in place, within the same reign
        control.wait("Started")


def test_what_cannot_be_killed_is_told_and_keeps_the_lock(uri: str, tmp_path: Path) -> None:
    """Catalogue 17: the freezer of cgroup v1 keeps from dying, as a dead mount does."""
    with frozen_group() as group, Guarded(uri, tmp_path, kill=0.5) as control:
        broker = control.launch()
        wait_until(lambda: "sleep" in Path(f"/proc/{broker}/comm").read_text())
        (group / "tasks").write_text(str(broker))
        (group / "freezer.state").write_text("FROZEN")
        wait_until(lambda: "FROZEN" in (group / "freezer.state").read_text())
        control.tell("kill")
        left = control.wait("Dead")["left"]
        assert left == [f"sleep (pid {broker})"]
        assert control.witness.is_alive
        control.kill("control")
        assert not control.is_gone("guard", 1)
        assert not is_free(tmp_path)
        (group / "freezer.state").write_text("THAWED")
        wait_until(lambda: is_free(tmp_path))
        assert not control.witness.is_alive


@contextlib.contextmanager
def frozen_group() -> Iterator[Path]:
    group = FREEZER / f"understudy-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"needs root and the freezer of cgroup v1: {exc}")
    try:
        yield group
    finally:
        (group / "freezer.state").write_text("THAWED")
        wait_until(lambda: not (group / "tasks").read_text())
        group.rmdir()


def test_a_child_that_closes_its_copy_leaves_the_lock_alone(uri: str, tmp_path: Path) -> None:
    """Catalogue 60: a broker may close what it has inherited; the guards have the lock open."""
    closer = (
        "python3",
        "-c",
        "import fcntl, os, time\n"
        "os.closerange(3, 1024)\n"
        "proof = open(os.environ['ALIVE'])\n"
        "fcntl.flock(proof, fcntl.LOCK_EX)\n"
        "time.sleep(1000)\n",
    )
    with Guarded(uri, tmp_path, closer) as control:
        control.launch()
        assert not is_free(tmp_path)
        control.kill("control", "guard")
        wait_until(lambda: is_free(tmp_path))
        assert not control.witness.is_alive


def test_only_an_announced_restart_hands_the_broker_on(uri: str, tmp_path: Path) -> None:
    with Guarded(uri, tmp_path) as control:
        broker = control.launch()
        control.tell("restart")
        control.wait("Adopted")
        assert control.witness.is_alive
        control.tell("extend 60")
        control.tell("kill")
        assert control.wait("Dead")["cause"] == "a test orders it"
        assert not is_alive(broker)


def test_a_restart_that_takes_too_long_is_over_at_the_deadline(uri: str, tmp_path: Path) -> None:
    with Guarded(uri, tmp_path, lease=4.0) as control:
        broker = control.launch()
        handle = os.pidfd_open(broker)
        control.tell("restart")
        control.wait("Adopted")
        assert select.select([handle], [], [], 30)[0]
        os.close(handle)
        assert control.wait("Dead")["cause"] == "the deadline has passed"


def test_close_ends_the_guards_and_lets_the_lock_go(uri: str, tmp_path: Path) -> None:
    with Guarded(uri, tmp_path, TREE) as control:
        control.launch()
        control.tell("close")
        control.wait("Closed")
        assert not control.witness.is_alive
        assert control.is_gone("guard")
        assert control.is_gone("watcher")


def test_another_user(uri: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Guarded(uri, tmp_path, ("sleep", "1000"), user="nobody") as control:
        control.tell("launch")
        broker = control.wait("Started")["pid"]
        status = Path(f"/proc/{broker}/status")
        wait_until(lambda: "Name:\tsleep" in status.read_text())
        assert "Groups:\t65534 \n" in status.read_text()
        control.tell("kill")
        assert control.wait("Dead")["left"] == []
