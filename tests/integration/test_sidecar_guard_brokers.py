"""Real brokers below a guard: nothing that they start outlives them, but for epmd."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.testing.brokers import ActiveMQ, RabbitMQ, Server, free_port
from understudyd.guard import tree
from understudyd.lock.file import FileBackend
from understudyd.testing.estate import is_alive
from understudyd.testing.guarded import Guarded, wait_until

pytestmark = pytest.mark.integration


def guarded(server: Server, folder: Path, env: dict[str, str]) -> Guarded:
    command = server._prepare_in_folder()
    # as an operator's wrapper would be: the broker is not even our child's own process
    run = 'exec 9<>"$ALIVE"; flock 9; "$@" >/dev/null 2>&1; exit $?'
    argv = ("sh", "-c", run, "sh", *command.argv)
    return Guarded(f"file:{folder}/lock", folder, argv, env={**command.env, **env}, lease=300.0)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def names(pids: list[int]) -> set[str]:
    return {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}


@pytest.fixture
def epmd_port() -> Iterator[int]:
    """A port for the port mapper that the broker starts itself; it is ended afterwards."""
    port = free_port()
    yield port
    for pid in epmds(port):
        os.kill(pid, signal.SIGKILL)


def epmds(port: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                is_one = (folder / "comm").read_text() == "epmd\n"
                if is_one and f"ERL_EPMD_PORT={port}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("company", [("control",), ("control", "guard")], ids="-".join)
def test_rabbitmq_dies_with_all_that_it_started(
    company: tuple[str, ...], tmp_path: Path, epmd_port: int
) -> None:
    """Catalogue 12, 15: its helpers live in sessions of their own; epmd is spared."""
    server = RabbitMQ()
    server.check_installed()
    env = {
        "PATH": os.environ["PATH"],
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    with guarded(server, tmp_path, env) as control:
        broker = control.launch()
        wait_until(lambda: answers(server.port), 120)
        below = [process.pid for process in tree.descendants(broker)]
        assert {"beam.smp", "erl_child_setup", "inet_gethost"} <= names(below)
        assert len({os.getsid(pid) for pid in below}) > 1
        assert epmds(epmd_port)
        control.kill(*company)
        backend = FileBackend(tmp_path / "lock", local=True)
        wait_until(lambda: backend.read().is_free)
        assert not answers(server.port)
        assert not any(is_alive(pid) for pid in below)
        assert epmds(epmd_port), "other nodes of this machine may need it"
        backend.close()
    server.close()


def test_activemq_dies_in_the_middle_of_its_life(tmp_path: Path) -> None:
    server = ActiveMQ()
    server.check_installed()
    with guarded(server, tmp_path, {"PATH": os.environ["PATH"]}) as control:
        broker = control.launch()
        wait_until(lambda: answers(server.port), 120)
        below = [process.pid for process in tree.descendants(broker)]
        assert "java" in names(below)
        control.kill("control", "guard")
        backend = FileBackend(tmp_path / "lock", local=True)
        wait_until(lambda: backend.read().is_free)
        assert not answers(server.port)
        assert not any(is_alive(pid) for pid in below)
        backend.close()
    server.close()


def test_activemq_is_asked_to_stop_and_does(tmp_path: Path) -> None:
    """Catalogue 19: the signal reaches it through its wrapper, which ends first."""
    server = ActiveMQ()
    server.check_installed()
    with guarded(server, tmp_path, {"PATH": os.environ["PATH"]}) as control:
        control.launch()
        wait_until(lambda: answers(server.port), 120)
        control.tell("stop 60")
        assert control.wait("Dead", 90)["cause"] == "it stopped"
    server.close()
