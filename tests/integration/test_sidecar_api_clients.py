"""Who talks to the API: over TLS, in pieces, nonsense, or for as long as it is let."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.testing.brokers import free_port
from understudyd.api.client import ApiProcess
from understudyd.api.words import Settings
from understudyd.config.model import Api, Place, Secret
from understudyd.testing.estate import eventually
from understudyd.testing.role_api import (
    API,
    SECONDS,
    Client,
    receive,
    serving,
    settings,
)

pytestmark = pytest.mark.integration


def test_speaks_tls(certificate: Path) -> None:
    given = settings(Api(Secret("hush"), certificate, certificate))
    trusting = ssl.create_default_context(cafile=str(certificate))
    with serving(given):
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
    with serving(given), contextlib.ExitStack() as stack:
        place = (given.listen.host, given.listen.port)
        silent = [stack.enter_context(socket.create_connection(place)) for _ in range(200)]
        with Client(given, trusting) as client:
            assert client.get() == 200
            assert connections(client) > 200
            for sock in silent[:100]:
                sock.sendall(b"no TLS")
                sock.close()
            eventually(lambda: connections(client) <= 101)  # us, and who is silent
            for sock in silent[100:]:
                assert sock.recv(1) == b""  # the handshake has a time limit
            eventually(lambda: connections(client) == 1)


def connections(client: Client) -> float:
    text = client.text("/metrics")
    (line,) = [line for line in text.splitlines() if "api_connections{" in line]
    return float(line.split()[-1])


def test_listens_on_ipv6() -> None:
    given = Settings(Place("::1", free_port()), API)
    with serving(given), Client(given) as client:
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
            text = client.text("/metrics")
    evicted = [line for line in text.splitlines() if "api_evicted_total{" in line]
    assert float(evicted[0].split()[-1]) > 0
