"""The API process against real sockets: who may ask, what dies, and who only wastes its time."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import understudy.pika
from understudy.errors import ConfigurationError, UnderstudyError
from understudy.testing.brokers import RabbitMQ, free_port
from understudyd.api.client import ApiProcess, Gone
from understudyd.api.page import Page
from understudyd.api.words import Failed, Listening, Order, Settings, pack
from understudyd.clock import now
from understudyd.config.model import Api, Secret
from understudyd.config.values import network
from understudyd.status import BrokerStatus
from understudyd.testing.estate import eventually
from understudyd.testing.role_api import (
    SECONDS,
    SNAPSHOT,
    STATUS,
    Client,
    receive,
    settings,
    show,
)

pytestmark = pytest.mark.integration


# --- what is true -------------------------------------------------------------------------------


def test_answers_on_one_connection_again_and_again(api: tuple[ApiProcess, Settings]) -> None:
    process, given = api
    with Client(given) as client:
        assert [client.get() for _ in range(5)] == [200] * 5
        process.page.beat(now() - 1, 7)  # the lease is over
        assert client.get() == 503
        process.page.beat(now() + 3600, 8)  # another reign's
        assert client.get() == 503
        process.page.beat(now() + 3600, 7)
        assert client.get() == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go first")
def test_goes_first(api: tuple[ApiProcess, Settings]) -> None:
    process, _ = api
    assert process.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, process.pid) < os.getpriority(os.PRIO_PROCESS, 0)


def test_a_broker_that_ends_is_no_master_at_that_moment(api: tuple[ApiProcess, Settings]) -> None:
    """Catalogue 9: told by the kernel, while control has not noticed yet."""
    process, given = api
    broker = subprocess.Popen(["sleep", "1000"])
    show(
        process.page,
        replace(SNAPSHOT, status=replace(STATUS, broker=BrokerStatus(True, broker.pid))),
    )
    with Client(given) as client:
        assert client.get() == 200
        broker.kill()
        os.waitid(os.P_PID, broker.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
        assert client.get() == 503
        broker.wait()
        assert client.get() == 503


def test_a_frozen_sidecar_is_a_503_and_not_a_hang(
    sidecar: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    """Catalogue 21 and 27."""
    given = settings()
    process, _ = sidecar(given)
    with Client(given) as client:
        assert client.get() == 200
        eventually(lambda: client.get("/liveness") == 200)  # a busy machine may keep it waiting
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: client.get("/liveness") == 503)
        eventually(lambda: client.get() == 503)
        assert client.get("/metrics") == 200
        status, told = client.post("/pause")
        assert (status, told) == (503, {"reason": "the sidecar did not answer within 5 s"})
        process.send_signal(signal.SIGCONT)
        eventually(lambda: client.get() == 200)


def test_ends_with_its_sidecar(sidecar: Callable[..., tuple[subprocess.Popen[str], int]]) -> None:
    """Catalogue 10: nothing answers for the dead, and the next one gets the port."""
    given = settings()
    process, pid = sidecar(given)
    with Client(given) as client:
        assert client.get() == 200
        watched = os.pidfd_open(pid)
        process.kill()
        process.wait()
        with contextlib.suppress(http.client.HTTPException, OSError):
            assert client.get() == 503
        assert select.select([watched], [], [], SECONDS)[0]
        os.close(watched)
    sidecar(given)
    with Client(given) as client:
        assert client.get() == 200


def test_is_started_again_over_the_same_page(api: tuple[ApiProcess, Settings]) -> None:
    process, given = api
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    (gone,) = receive(process)
    assert isinstance(gone, Gone)
    process.start()
    with Client(given) as client:
        assert client.get() == 200


def test_is_killed_when_it_is_frozen(
    api: tuple[ApiProcess, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clients would hang otherwise."""
    process, _ = api
    process.check()
    assert process.receive() == []
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr("understudyd.api.client.SILENT", -1.0)
    process.check()
    (gone,) = receive(process)
    assert isinstance(gone, Gone)
    process.check()  # nobody is there


def test_refuses_a_place_that_is_taken(api: tuple[ApiProcess, Settings]) -> None:
    _, given = api
    with (
        ApiProcess(given) as second,
        pytest.raises(ConfigurationError, match=r"can't listen on 127.0.0.1:\d+: Address already"),
    ):
        second.start()


def test_one_that_does_not_start_says_so(
    api: tuple[ApiProcess, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, given = api
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", "/bin/false")
        with pytest.raises(UnderstudyError, match="the API process did not start"):
            process.start()
    process.start()
    with Client(given) as client:
        assert client.get() == 200


@pytest.mark.parametrize("has_settings", [True, False])
def test_leaves_without_a_word_when_the_sidecar_died_meanwhile(has_settings: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, contextlib.closing(Page()) as page:
        if has_settings:
            ours.send(pack(settings()))
        ours.close()
        descriptors = (page.descriptor, theirs.fileno())
        argv = [sys.executable, "-m", "understudyd.api", *map(str, descriptors), str(os.getpid())]
        done = subprocess.run(argv, pass_fds=descriptors, timeout=SECONDS, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


# --- commands -----------------------------------------------------------------------------------


def test_hands_commands_to_the_sidecar(
    sidecar: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    """Catalogue 101."""
    given = settings()
    sidecar(given)
    with Client(given) as client:
        assert client.post("/switchover", '{"to": "b"}') == (202, {"reason": "switchover b"})
        assert client.post("/pause") == (202, {"reason": "pause None"})
        assert client.post("/pause", token="wrong")[0] == 401
        assert client.post("/master")[0] == 405
        assert client.get() == 200


def test_a_late_verdict_goes_nowhere(api: tuple[ApiProcess, Settings]) -> None:
    process, given = api
    with Client(given) as client:
        client.http.request("POST", "/pause", "", {"Authorization": "Bearer hush"})
        (order,) = receive(process)
        process.reply(order, 409, "not now")
        process.reply(order, 202, "again")
        assert client._answer() == (409, {"reason": "not now"})
        assert client.get() == 200


def test_a_reload_changes_token_and_place(api: tuple[ApiProcess, Settings]) -> None:
    process, given = api
    changed = settings(Api(Secret("other"), allow=(network("127.0.0.0/8"),)))
    process.configure(changed)
    assert receive(process) == [Listening()]
    with Client(changed) as client:
        assert client.post("/pause")[0] == 401
        client.http.request("POST", "/pause", "", {"Authorization": "Bearer other"})
        (order,) = receive(process)
        assert order == Order(1, "pause", None, "127.0.0.1")
    with pytest.raises(ConnectionRefusedError), Client(given) as client:
        client.get()


def test_a_bad_reload_changes_nothing(api: tuple[ApiProcess, Settings], tmp_path: Path) -> None:
    """Catalogue 6: the running configuration stays."""
    process, given = api
    (tmp_path / "c").write_text("no certificate")
    bad = replace(given, api=Api(Secret("other"), tmp_path / "c", tmp_path / "c"))
    process.configure(bad)
    (failed,) = receive(process)
    assert isinstance(failed, Failed)
    assert "no certificate with its key" in failed.cause
    with Client(given) as client:
        assert client.get() == 200
        assert client.post("/pause", token="other")[0] == 401


# --- the list for clients -----------------------------------------------------------------------


def test_its_uris_lead_clients_to_the_master(
    api: tuple[ApiProcess, Settings], rabbit_a: RabbitMQ
) -> None:
    """L: a client that knows only a dead broker learns from /uris where the group is."""
    process, given = api
    dead = f"amqp://127.0.0.1:{free_port()}"
    show(process.page, replace(SNAPSHOT, uris=(f"amqp://127.0.0.1:{rabbit_a.port}", dead)))
    address = (
        f"failover:({dead})?updateURIsURL=http://{given.listen}/uris%3FupdateInterval=100"
        "&timeout=20000&initialReconnectDelay=10&maxReconnectDelay=100"
    )
    connection = understudy.pika.BlockingConnection(address)
    channel = connection.channel()
    channel.queue_declare("uris", auto_delete=True)
    channel.basic_publish("", "uris", b"found")
    assert channel.basic_get("uris", auto_ack=True)[2] == b"found"
    connection.close()
