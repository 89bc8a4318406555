"""``understudy uri``, run as a user runs it: what it prints, how it ends, what it never shows."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from understudy.testing.brokers import RabbitMQ, Redis, free_port
from understudyd.testing.terminal import on_terminal

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from understudyd.cli import main; main()"]
SECRET = "s3cret-Zq7"


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("adapters", "plugins"))
    return {**os.environ, "PYTHONPATH": paths, **more}


def run(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, "uri", *arguments],
        input=stdin,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def probe(address: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the answer of each endpoint."""
    done = run(address, "--probe", "--json")
    return done.returncode, [one["probe"] for one in json.loads(done.stdout)["endpoints"]]


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


# --- explaining ---------------------------------------------------------------------------------


def test_lines() -> None:
    """F01."""
    done = run(
        f"failover:(amqp://app:{SECRET}@a/%2f?heartbeat=5,failover:(stomp://b))"
        f"?timeout=3000&nested.password={SECRET}&updateURIsURL=http://u:{SECRET}@h/x"
    )
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "scheme failover",
        "endpoint 1 amqp://app:**@a/%2f?password=** heartbeat=5 password=** (URI)",
        "endpoint 2 stomp://b?password=** password=** (URI)",
    ]
    assert "option timeout=3000 (URI)" in lines
    assert "option randomize=true (default)" in lines
    assert "option updateURIsURL=http://u:**@h/x (URI)" in lines
    assert "option nested.password=** (URI)" in lines
    assert (done.returncode, done.stderr) == (0, "")


def test_json() -> None:
    done = run(f"masterslave:(amqp://b,amqps://u:{SECRET}@a?verify=false&x=1)?timeout=5", "--json")
    report = json.loads(done.stdout)
    assert report["scheme"] == "masterslave"
    assert report["endpoints"] == [
        {"uri": "amqp://b", "origin": "URI", "options": {}, "probe": None},
        {
            "uri": "amqps://u:**@a?x=1",
            "origin": "URI",
            "options": {"verify": False, "x": "1"},
            "probe": None,
        },
    ]
    assert report["agents"] == []
    assert report["options"]["timeout"] == {"value": 5, "origin": "URI"}
    assert report["options"]["randomize"] == {"value": False, "origin": "URI"}
    assert report["options"]["heartbeat"] == {"value": 10000, "origin": "default"}
    assert report["options"]["updateURIsURL"] == {"value": None, "origin": "default"}


@pytest.mark.parametrize(
    ("members", "notes"),
    [("amqp://a,stomp://b", 1), ("amqp://a,redis://b", 0), ("tcp://a,stomp+ssl://b", 0)],
)
def test_protocols_that_nobody_speaks_together_are_noted(members: str, notes: int) -> None:
    done = run(f"failover:({members})")
    assert done.stdout.count("note: stomp and amqp stand in one list") == notes
    assert done.returncode == 0
    assert len(json.loads(run(f"failover:({members})", "--json").stdout)["notes"]) == notes


def test_discovery_agents() -> None:
    done = run(f"discovery:(http://u:{SECRET}@h.invalid/uris)")
    assert "agent http://u:**@h.invalid/uris (URI)" in done.stdout.splitlines()
    assert done.returncode == 0
    done = run(f"discovery:(http://u:{SECRET}@h.invalid/uris)", "--probe")
    assert "agent http://u:**@h.invalid/uris (URI) failed: " in done.stdout
    assert done.returncode == 1
    assert "no endpoint to probe" in done.stderr


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


def test_an_agent_that_cannot_be_is_wrong_use() -> None:
    """D06."""
    done = run("discovery:(multicast://10.0.0.1)")
    assert done.returncode == 2
    assert "no multicast address" in done.stderr


def test_the_address_may_come_from_standard_input() -> None:
    assert "endpoint 1 amqp://u:**@a (URI)" in run("-", stdin=f"amqp://u:{SECRET}@a\n").stdout


def test_schemes_of_kombu_are_known() -> None:
    done = run(f"failover:(redis://:{SECRET}@a/0,sqs://key:{SECRET}@)")
    assert "endpoint 1 redis://:**@a/0 (URI)" in done.stdout
    assert "endpoint 2 sqs://key:**@ (URI)" in done.stdout


def test_a_table_on_a_terminal() -> None:
    text = on_terminal(
        [*COMMAND, "uri", f"failover:(amqp://u:{SECRET}@a)?timeout=3000"], environment()
    )
    assert "amqp://u:**@a" in text
    assert "deadline of a send" in text
    assert "┃" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([f"failover:(amqp://u:{SECRET}@a)?timeot=5"], ["timeot", "did you mean timeout?"]),
        ([f"failover:(ampq://u:{SECRET}@a)"], ["ampq", "did you mean amqp?"]),
        ([f"failover:(amqp://u:{SECRET}@a"], ["parentheses"]),
        ([f"failover:(amqp://u:{SECRET}/x@a)"], ["%2F"]),
        (["amqp://a", f"amqp://u:{SECRET}@b"], ["unexpected extra argument"]),
        (["amqp://a", f"--prob=amqp://u:{SECRET}@b"], ["--prob"]),
        ([], ["Missing argument"]),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments: list[str], words: list[str]) -> None:
    """F02, F03."""
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert [word for word in words if word not in done.stderr] == []


def test_without_click_the_pip_command_is_told(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = run("amqp://a", PYTHONPATH=paths)
    assert done.returncode == 2
    assert done.stderr == 'understudy: click is not installed: pip install "understudy[cli]"\n'


@pytest.mark.parametrize("command", ["bridge", "network", "sidecar"])
def test_without_click_a_command_tells_the_extra_that_it_needs(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    argv = [sys.executable, "-c", "from understudyd.cli import main; main()", command]
    given = {**environment(), "PYTHONPATH": paths}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=given)
    extra = "sidecar" if command == "sidecar" else "bridge"
    assert done.returncode == 2
    assert done.stderr == f'understudy: click is not installed: pip install "understudy[{extra}]"\n'


# --- probing ------------------------------------------------------------------------------------


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
