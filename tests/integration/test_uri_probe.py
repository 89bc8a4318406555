"""``understudy uri --probe``: it logs in at each endpoint, and tells what came of it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from understudy.testing.brokers import RabbitMQ, Redis, free_port
from understudyd.testing.uri_command import SECRET, probe, run

pytestmark = pytest.mark.integration

Answerer = Callable[[bytes], bytes | None]


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections each get a thread."""

    def guarded(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            serve(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=guarded, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


@contextlib.contextmanager
def answering(
    answer: Answerer, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """A port where one function answers what was received until the first NUL; None = silence."""
    received: list[bytes] = []
    stop = threading.Event()

    def converse(sock: socket.socket) -> None:
        data = b""
        while b"\0" not in data and (chunk := sock.recv(4096)):
            data += chunk
        received.append(data)
        reply = answer(data)
        if reply is None:
            stop.wait(60)
            return
        sock.sendall(reply)
        if reply.startswith(b"CONNECTED"):
            received.append(sock.recv(4096))

    def serve(sock: socket.socket) -> None:
        if tls is None:
            converse(sock)
        else:
            with tls.wrap_socket(sock, server_side=True) as wrapped:
                converse(wrapped)

    with listening(serve) as port:
        yield port, received
        stop.set()


@contextlib.contextmanager
def tls_in_front_of(port: int, tls: ssl.SSLContext) -> Iterator[int]:
    """A port that speaks TLS and passes the plain bytes on to another."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)

    def serve(sock: socket.socket) -> None:
        with (
            tls.wrap_socket(sock, server_side=True) as wrapped,
            socket.create_connection(("127.0.0.1", port)) as plain,
        ):
            back = threading.Thread(target=copy, args=(plain, wrapped), daemon=True)
            back.start()
            copy(wrapped, plain)
            back.join(10)

    with listening(serve) as front:
        yield front


def connected(_: bytes) -> bytes:
    return b"CONNECTED\nversion:1.2\nserver:Tiny/1.0 beta\nheart-beat:0,0\n\n\0\n"


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_probe_of_a_real_rabbitmq(rabbit_a: RabbitMQ) -> None:
    begin = time.monotonic()
    code, answers = probe(f"failover:(amqp://u:{SECRET}@127.0.0.1:{free_port()},{rabbit_a.uri})")
    assert code == 0
    assert answers[0]["ok"] is False
    assert answers[0]["error"] == "connection refused"
    assert answers[1]["ok"] is True
    assert answers[1]["server"].startswith("RabbitMQ 3")
    assert 0 < answers[1]["ms"] < (time.monotonic() - begin) * 1000


def test_probe_with_a_wrong_password_or_vhost(rabbit_a: RabbitMQ) -> None:
    here = f"{rabbit_a.host}:{rabbit_a.port}"
    code, answers = probe(f"failover:(amqp://nobody:{SECRET}@{here},{rabbit_a.uri}/missing)")
    assert code == 1
    assert "ACCESS_REFUSED" in answers[0]["error"]
    assert "vhost" in answers[1]["error"]


def test_probe_of_rabbitmq_over_stomp(launch: Callable[[RabbitMQ], RabbitMQ]) -> None:
    broker = launch(RabbitMQ(stomp=True))
    wrong = f"stomp://nobody:{SECRET}@{broker.host}:{broker.stomp_port}"
    code, answers = probe(f"failover:({broker.stomp_uri},{wrong})")
    assert code == 0
    assert answers[0]["server"].startswith("RabbitMQ 3")
    assert answers[0]["server"].endswith("STOMP 1.2")
    assert answers[1]["ok"] is False
    assert "ERROR" in answers[1]["error"]


def test_probe_of_redis(redis_server: Redis) -> None:
    code, answers = probe(
        f"failover:({redis_server.uri},redis://127.0.0.1:{free_port()},memory://)"
    )
    assert code == 0
    assert answers[0]["server"].startswith("Redis ")
    assert answers[1]["ok"] is False
    assert "refused" in answers[1]["error"]
    assert answers[2]["ok"] is True


def test_probe_speaks_stomp() -> None:
    with answering(connected) as (port, received):
        code, (answer,) = probe(f"stomp://app:{SECRET}@127.0.0.1:{port}/%2forders")
        assert (code, answer["ok"]) == (0, True)
        assert answer["server"] == "Tiny 1.0 beta STOMP 1.2"
        lines = received[0].decode().split("\n")
        assert lines[0] == "CONNECT"
        assert {"accept-version:1.0,1.1,1.2", "host:/orders", "login:app"} <= set(lines)
        assert f"passcode:{SECRET}" in lines


def test_probe_prints_a_line_per_endpoint() -> None:
    with answering(connected) as (port, _):
        done = run(f"stomp://127.0.0.1:{port}", "--probe")
    assert done.returncode == 0
    assert " (URI) ok " in done.stdout
    assert "Tiny 1.0 beta STOMP 1.2" in done.stdout


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"ERROR\nmessage:Bad CONNECT\n\nAccess refused for app\0", "ERROR: Bad CONNECT"),
        (f"ERROR\n\nno {SECRET} here\0".encode(), "ERROR: no ** here"),
        (b"AMQP\0\0\x09\x01", "answered AMQP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed before an answer"),
        (b"x" * 70_000, "not STOMP"),
        (b"", "closed before an answer"),
    ],
)
def test_probe_of_what_is_no_stomp_broker(answer: bytes, words: str) -> None:
    with answering(lambda _: answer) as (port, _):
        code, (told,) = probe(f"stomp://app:{SECRET}@127.0.0.1:{port}")
    assert code == 1
    assert words in told["error"]


def test_probe_of_silence_is_bounded_and_parallel() -> None:
    with answering(lambda _: None) as (port, _):
        members = ",".join(
            [f"stomp://127.0.0.1:{port}/{number}" for number in range(10)]
            + [f"amqp://127.0.0.1:{port}/{number}" for number in range(10)]
        )
        begin = time.monotonic()
        code, answers = probe(f"failover:({members})?connectTimeout=2000")
    assert time.monotonic() - begin < 25  # one after the other would be 40
    assert code == 1
    assert {answer["error"] for answer in answers} == {"no answer within 2000 ms"}


def test_probe_of_a_host_that_does_not_exist() -> None:
    """F05: the others are probed all the same."""
    with answering(connected) as (port, _):
        code, answers = probe(f"failover:(amqp://nowhere.invalid,stomp://127.0.0.1:{port})")
    assert code == 0
    assert "host name" in answers[0]["error"] or "no answer" in answers[0]["error"]
    assert answers[1]["ok"] is True


def test_probe_of_tcp_tells_that_the_protocol_is_open() -> None:
    with answering(connected) as (port, _):
        code, answers = probe(f"failover:(tcp://127.0.0.1:{port},tcp://127.0.0.1)")
    assert code == 0
    assert "names no protocol" in answers[0]["server"]
    assert "no port" in answers[1]["error"]


@pytest.mark.parametrize(
    ("options", "ok", "words"),
    [
        ({}, False, "certificate"),  # nobody vouches for it
        ({"cafile": "{file}"}, True, "Tiny"),
        ({"cafile": "{file}", "server_hostname": "elsewhere"}, False, "certificate"),
        ({"verify": "false"}, True, "Tiny"),
        ({"cafile": "/no/such/file"}, False, "No such file"),
    ],
)
def test_probe_verifies_certificates(
    certificate: Path, options: Mapping[str, str], ok: bool, words: str
) -> None:
    query = "&".join(f"{name}={value.format(file=certificate)}" for name, value in options.items())
    with answering(connected, server_context(certificate)) as (port, _):
        code, (answer,) = probe(f"stomp+ssl://u:{SECRET}@localhost:{port}?{query}")
    assert (code == 0, answer["ok"]) == (ok, ok)
    assert words in answer["server"] + answer["error"]


@pytest.mark.parametrize(
    ("query", "ok", "words"),
    [
        ("", False, "certificate was not accepted"),
        ("cafile={file}", True, "RabbitMQ"),
        ("cafile={file}&server_hostname=elsewhere", False, "certificate was not accepted"),
        ("verify=false", True, "RabbitMQ"),
    ],
)
def test_probe_of_amqps_verifies_certificates(
    certificate: Path, rabbit_a: RabbitMQ, query: str, ok: bool, words: str
) -> None:
    login = rabbit_a.uri.partition("//")[2].rpartition("@")[0]
    with tls_in_front_of(rabbit_a.port, server_context(certificate)) as port:
        address = f"amqps://{login}@localhost:{port}?{query.format(file=certificate)}"
        code, (answer,) = probe(address)
    assert (code == 0, answer["ok"]) == (ok, ok)
    assert words in answer["server"] + answer["error"]


def test_probe_of_what_agents_find(tmp_path: Path) -> None:
    """Found endpoints are probed too; nobody is shown, or given, a password that is not his."""
    with answering(connected) as (port, received):
        (tmp_path / "uris").write_text(f"stomp://x:y@127.0.0.1:{port},stomp://evil.invalid\n")
        members = f"stomp://app:{SECRET}@127.0.0.1:{free_port()},discovery:(file:{tmp_path}/uris)"
        done = run(f"failover:({members})?updateURIsURL={tmp_path}/missing", "--probe", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    found = [(one["uri"], one["origin"], one["probe"]["ok"]) for one in report["endpoints"]][1:]
    assert found == [
        (f"stomp://app:**@127.0.0.1:{port}", f"file:{tmp_path}/uris", True),
        ("stomp://evil.invalid", f"file:{tmp_path}/uris", False),
    ]
    assert f"passcode:{SECRET}" in received[0].decode()
    first, second = report["agents"]
    assert (first["found"], first["error"], len(first["notes"])) == (2, "", 2)
    assert "FileNotFoundError" in second["error"]
