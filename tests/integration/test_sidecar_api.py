"""The API process against real sockets: who may ask, what dies, and who only wastes its time."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import understudy.pika
from understudy.errors import ConfigurationError, UnderstudyError
from understudy.testing.brokers import RabbitMQ, free_port
from understudyd.api.client import ApiProcess, Gone
from understudyd.api.page import Page, Snapshot
from understudyd.api.words import Failed, Listening, Order, Settings, pack
from understudyd.clock import now
from understudyd.config.model import Api, Place, Secret
from understudyd.config.values import network
from understudyd.status import BrokerStatus, ClusterStatus, NodeStatus, Role
from understudyd.testing import publisher

pytestmark = pytest.mark.integration

SECONDS = 20.0  # nothing here takes so long
STATUS = NodeStatus("g", "a", Role.MASTER, "master", 7, None, "a", BrokerStatus(True))
SNAPSHOT = Snapshot(STATUS, ClusterStatus("g", "file:/x", "a", 7))
API = Api(Secret("hush"))


def settings(api: Api = API) -> Settings:
    return Settings(Place("127.0.0.1", free_port()), api)


class Client:
    """One connection; each call is a request on it."""

    def __init__(self, given: Settings, tls: ssl.SSLContext | None = None) -> None:
        host, port = given.listen.host, given.listen.port
        if tls:
            self.http: http.client.HTTPConnection = http.client.HTTPSConnection(
                "localhost", port, timeout=SECONDS, context=tls
            )
        else:
            self.http = http.client.HTTPConnection(host, port, timeout=SECONDS)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str = "/master") -> int:
        self.http.request("GET", path)
        return self._answer()[0]

    def post(self, path: str, body: str = "", token: str = "hush") -> tuple[int, Any]:
        self.http.request("POST", path, body, {"Authorization": f"Bearer {token}"})
        return self._answer()

    def _answer(self) -> tuple[int, Any]:
        with self.http.getresponse() as response:
            body = response.read()
        return response.status, json.loads(body) if body.startswith(b"{") else body


@pytest.fixture
def api() -> Iterator[tuple[ApiProcess, Settings]]:
    """A master's, in this process."""
    given = settings()
    with ApiProcess(given) as process:
        process.start()
        show(process.page)
        yield process, given


def show(page: Page, snapshot: Snapshot = SNAPSHOT) -> None:
    page.publish(snapshot)
    page.beat(now() + 3600, 7)


@pytest.fixture
def sidecar() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts a sidecar with an API; gives it and the API's process id."""
    with contextlib.ExitStack() as stack:

        def start(given: Settings, **options: Any) -> tuple[subprocess.Popen[str], int]:
            broker = BrokerStatus(True, os.getpid())
            snapshot = replace(SNAPSHOT, status=replace(STATUS, broker=broker))
            words = publisher.arguments(given, snapshot, **options)
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(process.send_signal, signal.SIGCONT)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            return process, int(process.stdout.readline())

        yield start


def receive(process: ApiProcess) -> list[Any]:
    assert select.select([process], [], [], SECONDS)[0]
    return list(process.receive())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


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
        until(lambda: client.get("/liveness") == 200)  # a busy machine may keep it waiting
        process.send_signal(signal.SIGSTOP)
        until(lambda: client.get("/liveness") == 503)
        until(lambda: client.get() == 503)
        assert client.get("/metrics") == 200
        status, told = client.post("/pause")
        assert (status, told) == (503, {"reason": "the sidecar did not answer within 5 s"})
        process.send_signal(signal.SIGCONT)
        until(lambda: client.get() == 200)


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


def test_speaks_tls(certificate: Path) -> None:
    given = settings(Api(Secret("hush"), certificate, certificate))
    trusting = ssl.create_default_context(cafile=str(certificate))
    with ApiProcess(given) as process:
        process.start()
        show(process.page)
        with Client(given, trusting) as client:
            assert client.get() == 200
        with pytest.raises(ssl.SSLError), Client(given, ssl.create_default_context()) as client:
            client.get()
        with pytest.raises((http.client.HTTPException, OSError)), Client(given) as client:
            client.get()
        with Client(given, trusting) as client:
            assert client.get() == 200


def test_silent_handshakes_harm_nobody_and_leave_nothing(certificate: Path) -> None:
    given = settings(Api(Secret("hush"), certificate, certificate))
    trusting = ssl.create_default_context(cafile=str(certificate))
    with ApiProcess(given) as process, contextlib.ExitStack() as stack:
        process.start()
        show(process.page)
        place = (given.listen.host, given.listen.port)
        silent = [stack.enter_context(socket.create_connection(place)) for _ in range(200)]
        with Client(given, trusting) as client:
            assert client.get() == 200
            assert connections(client) > 200
            for sock in silent[:100]:
                sock.sendall(b"no TLS")
                sock.close()
            until(lambda: connections(client) <= 101)  # us, and who is silent
            for sock in silent[100:]:
                assert sock.recv(1) == b""  # the handshake has a time limit
            until(lambda: connections(client) == 1)


def connections(client: Client) -> float:
    client.http.request("GET", "/metrics")
    text = client._answer()[1].decode()
    (line,) = [line for line in text.splitlines() if "api_connections{" in line]
    return float(line.split()[-1])


def test_listens_on_ipv6() -> None:
    given = Settings(Place("::1", free_port()), API)
    with ApiProcess(given) as process:
        process.start()
        show(process.page)
        with Client(given) as client:
            assert client.get() == 200


# --- bad clients --------------------------------------------------------------------------------


def spoken(given: Settings, *pieces: bytes) -> bytes:
    """All that comes back, until the other side closes."""
    with socket.create_connection((given.listen.host, given.listen.port), SECONDS) as sock:
        for piece in pieces:
            sock.sendall(piece)
        data = b""
        while chunk := sock.recv(65536):
            data += chunk
        return data


def test_takes_requests_in_any_pieces(api: tuple[ApiProcess, Settings]) -> None:
    _, given = api
    request = b"GET /uris HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    whole = spoken(given, request)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert spoken(given, *(request[i : i + 1] for i in range(len(request)))) == whole
    keep = request.replace(b"connection: close\r\n", b"")
    assert spoken(given, keep + keep + request).count(b"HTTP/1.1 200 OK") == 3


def test_waits_for_a_body_that_is_announced(api: tuple[ApiProcess, Settings]) -> None:
    process, given = api
    head = b"POST /switchover HTTP/1.1\r\nhost: h\r\nauthorization: Bearer hush\r\n"
    head += b"expect: 100-continue\r\ncontent-length: 11\r\n\r\n"
    with socket.create_connection((given.listen.host, given.listen.port), SECONDS) as sock:
        sock.sendall(head)
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b'{"to": "b"}')
        (order,) = receive(process)
        assert order.to == "b"


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b" 400 "),
        (b"GET /master\r\n\r\n", b" 400 "),
        (b"GET /master HTTP/1.1\r\n\r\n", b" 400 "),
        (b"GET /master HTTP/1.1\r\nhost: h\r\nx: " + b"x" * 9000, b" 431 "),
        (
            b"POST /pause HTTP/1.1\r\nhost: h\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000,
            b" 413 ",
        ),
        (
            b"POST /pause HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b" 400 ",
        ),
        (b"GET /\xff HTTP/1.1\r\nhost: h\r\n\r\n", b" 400 "),
    ],
)
def test_refuses_what_is_no_request(
    api: tuple[ApiProcess, Settings], sent: bytes, answered: bytes
) -> None:
    _, given = api
    with contextlib.suppress(ConnectionResetError):  # what we sent too much may cost the answer
        assert answered in spoken(given, sent).partition(b"\r\n")[0]
    with Client(given) as client:
        assert client.get() == 200


def test_slow_clients_are_many_and_harm_nobody(
    sidecar: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    """Catalogue 101 (slowloris): more than may be connected; who asks is answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 5000
    if hard != resource.RLIM_INFINITY and hard < limit + 500:
        pytest.skip(f"only {hard} open files are allowed here")
    given = settings()
    sidecar(given, busy=1)
    with contextlib.ExitStack() as stack, Client(given) as patient:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit + 500), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        assert patient.get() == 200
        for number in range(limit):
            slow = socket.create_connection((given.listen.host, given.listen.port), SECONDS)
            stack.callback(slow.close)
            slow.sendall(b"GET /master HTTP/1.1\r\nhost: h\r\n")
            if number % 500 == 0:
                assert patient.get() == 200
                with Client(given) as client:
                    assert client.get() == 200
        with Client(given) as client:
            client.http.request("GET", "/metrics")
            text = client._answer()[1].decode()
    evicted = [line for line in text.splitlines() if "api_evicted_total{" in line]
    assert float(evicted[0].split()[-1]) > 0


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
