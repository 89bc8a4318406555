"""A web server that lists brokers, and servers that lie, stall, drip and flood."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from understudy.discovery import http as module
from understudy.discovery import make_agent
from understudy.testing import wait_until
from understudy.testing.brokers.ports import Port
from understudy.testing.discovery_stands import Recorder

OK = b"HTTP/1.1 200 OK\r\n\r\n"
Answer = Callable[[socket.socket, bytes], None]


class Server:
    """One answer for each question; it may do what no real server would."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            request = sock.recv(65536)
            self.requests.append(request.decode(errors="replace"))
            self._answer(sock, request)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Answer | bytes], Server]]:
    servers = []

    def start(answer: Answer | bytes) -> Server:
        if isinstance(answer, bytes):
            text = answer
            answer = lambda sock, _: sock.sendall(text)  # noqa: E731
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def first_report(address: str) -> tuple[str, ...] | str:
    recorder = Recorder()
    agent = make_agent(address)
    agent.start(recorder)
    try:
        assert wait_until(lambda: recorder.all, 20)
    finally:
        agent.stop()
    return recorder.all[0]


def redirect(status: int, target: str) -> bytes:
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {target}\r\n\r\n".encode()


def drip(sock: socket.socket, text: bytes) -> None:
    for byte in text:
        sock.sendall(bytes([byte]))
        time.sleep(0.01)


def test_d07_the_question(serve: Callable[..., Server]) -> None:
    server = serve(OK + b"amqp://a,amqp://b")
    address = f"http://us%40er:p%3Aw@127.0.0.1:{server.port}/uris?x=%20y&updateInterval=9000&z"
    assert first_report(address) == ("amqp://a", "amqp://b")
    head, *headers = server.requests[0].split("\r\n")
    assert head == "GET /uris?x=%20y&z HTTP/1.1"
    login = base64.b64encode(b"us@er:p:w").decode()
    assert f"Authorization: Basic {login}" in headers
    assert f"Host: 127.0.0.1:{server.port}" in headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_without_the_login(
    serve: Callable[..., Server], status: int
) -> None:
    there = serve(OK + b"amqp://a")
    here = serve(redirect(status, f"http://127.0.0.1:{there.port}/list"))
    assert first_report(f"http://u:s3cret@127.0.0.1:{here.port}/") == ("amqp://a",)
    assert "Authorization" in here.requests[0]
    assert "Authorization" not in there.requests[0]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "file: address"),
        ("ftp://127.0.0.1/x", "ftp: address"),
        ("gopher:x", "address"),
        ("", "more than 3 redirects"),  # to itself
        ("/again", "more than 3 redirects"),
        ("http://[", ""),
    ],
)
def test_other_redirects_are_not_followed(
    serve: Callable[..., Server], target: str, words: str
) -> None:
    told = first_report(f"http://127.0.0.1:{serve(redirect(302, target)).port}/")
    assert isinstance(told, str)
    assert words in told


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n<html>", "answered 404"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
        (b"", ""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ""),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", ""),
        (OK + b"amqp://a," * 10_000, "longer than 65536"),
        (OK + b"\xff", "not UTF-8"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\namqp://a", "too early"),
    ],
)
def test_what_is_no_list_is_a_failure(
    serve: Callable[..., Server], answer: bytes, words: str
) -> None:
    told = first_report(f"http://127.0.0.1:{serve(answer).port}/")
    assert isinstance(told, str)
    assert words in told


@pytest.mark.parametrize("silence", ["at once", "in the head", "in the body", "endless"])
def test_a_question_has_an_end(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, silence: str
) -> None:
    """A byte now and then keeps no socket's own timeout from starting again."""
    monkeypatch.setattr(module, "PATIENCE", 0.4)
    over = threading.Event()

    def answer(sock: socket.socket, _: bytes) -> None:
        if silence == "in the head":
            drip(sock, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000)
        elif silence == "in the body":
            drip(sock, OK + b"amqp://a," * 200)
        elif silence == "endless":
            sock.sendall(OK)
            while not over.is_set():
                sock.sendall(b"a" * 100)
                time.sleep(0.05)
        over.wait(20)

    told = first_report(f"http://127.0.0.1:{serve(answer).port}/")
    over.set()
    assert isinstance(told, str)
    assert "no answer within 0.4 s" in told


def test_a_silent_tls_handshake_has_an_end(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    over = threading.Event()
    server = serve(lambda sock, _: (over.wait(20), None)[1])
    told = first_report(f"https://127.0.0.1:{server.port}/")
    over.set()
    assert isinstance(told, str)
    assert "no answer" in told


def test_nobody_listens_or_the_name_is_unknown(tmp_path: Path) -> None:
    nobody = Port()
    for place, words in ((f"127.0.0.1:{nobody.number}", "refused"), ("nowhere.invalid", "")):
        told = first_report(f"http://{place}/")
        assert isinstance(told, str)
        assert words in told
    nobody.release()
