"""Really connects to endpoints, to tell whether they answer.

Rules:
* A probe ends within the timeout, whatever hangs: sockets have a deadline, and what has none (name
  resolution, host libraries) runs on a daemon thread that is left behind.
* It goes as far as a client would before it is of use: TCP, TLS with verification, login, vhost.
* What went wrong is told in words; no text of another library is shown before the password was
  taken out of it.
"""

from __future__ import annotations

import importlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from understudy import Endpoint, UnderstudyError, redact
from understudy.core.endpoint import DEFAULT_PORTS
from understudy.core.redact import MASK
from understudy.failover.tls import tls_context

__all__ = ["Answer", "probe", "probe_all"]

TOGETHER = 64  # threads; more endpoints are probed in turns
GRACE = 0.25  # s for a thread to tell its own timeout in its own words
LARGEST_FRAME = 65536  # of an answer to CONNECT


@dataclass(frozen=True)
class Answer:
    """What one endpoint answered."""

    ok: bool
    ms: float
    server: str = ""  # product and version
    error: str = ""

    def __str__(self) -> str:
        return f"ok {self.ms:.1f} ms {self.server}".rstrip() if self.ok else f"failed: {self.error}"


class ProbeFailed(UnderstudyError):
    """The endpoint answered, but not as it should."""


def probe_all(endpoints: Sequence[Endpoint], timeout: float) -> list[Answer]:
    """One answer per endpoint, in order."""
    answers: list[Answer] = []
    for begin in range(0, len(endpoints), TOGETHER):
        answers += _probe_together(endpoints[begin : begin + TOGETHER], timeout)
    return answers


def _probe_together(endpoints: Sequence[Endpoint], timeout: float) -> list[Answer]:
    answers: dict[int, Answer] = {}

    def run(number: int, endpoint: Endpoint) -> None:
        answers[number] = probe(endpoint, timeout)

    threads = [
        threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(endpoints)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout + GRACE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = Answer(False, timeout * 1000, error=f"no answer within {timeout * 1000:.0f} ms")
    return [answers.get(number, silent) for number in range(len(endpoints))]


def probe(endpoint: Endpoint, timeout: float) -> Answer:
    """One answer; a library that hangs may hang longer than the timeout."""
    begin = time.monotonic()
    try:
        server = _prober(endpoint.scheme)(endpoint, timeout)
    except Exception as error:  # any library may raise anything here; it is reported, not handled
        failed = round((time.monotonic() - begin) * 1000, 1)
        return Answer(False, failed, error=_in_words(error, endpoint, timeout))
    return Answer(True, round((time.monotonic() - begin) * 1000, 1), server)


def _prober(scheme: str) -> Callable[[Endpoint, float], str]:
    if scheme in ("amqp", "amqps", "pyamqp"):
        return _probe_amqp
    if scheme in ("stomp", "stomp+ssl"):
        return _probe_stomp
    return _probe_port if scheme in ("tcp", "ssl") else _probe_kombu


def _in_words(error: Exception, endpoint: Endpoint, timeout: float) -> str:
    """The cause, without any form of the password."""
    match error:
        case ConnectionRefusedError():
            text = "connection refused"
        case TimeoutError():
            text = f"no answer within {timeout * 1000:.0f} ms"
        case socket.gaierror():
            text = f"the host name is not known: {error.strerror}"
        case ssl.SSLCertVerificationError():
            text = f"the certificate was not accepted: {error.verify_message}"
        case _:
            code, reason = getattr(error, "reply_code", None), getattr(error, "reply_text", None)
            text = f"{code} {reason}" if code and reason else str(error) or type(error).__name__
    for secret in (endpoint.password or "", quote(endpoint.password or "", safe="")):
        if len(secret) >= 3:  # shorter ones would only turn every text into stars
            text = text.replace(secret, MASK)
    return " ".join(redact(text).split())


# --- sockets ------------------------------------------------------------------------------------


def _dial(endpoint: Endpoint, timeout: float) -> socket.socket:
    """A socket that is connected and, for a TLS scheme, through its handshake."""
    port = endpoint.port or DEFAULT_PORTS.get(endpoint.scheme)
    if port is None:
        raise ProbeFailed(f"{endpoint.scheme}: has no port of its own; add one")
    deadline = time.monotonic() + timeout
    sock = socket.create_connection((endpoint.host, port), timeout)
    try:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        if endpoint.scheme in ("stomp+ssl", "ssl"):
            name = endpoint.options.server_hostname or endpoint.host
            return tls_context(endpoint).wrap_socket(sock, server_hostname=name)
        return sock
    except BaseException:
        sock.close()
        raise


def _probe_port(endpoint: Endpoint, timeout: float) -> str:
    _dial(endpoint, timeout).close()
    return f"(the port is open; {endpoint.scheme}: names no protocol)"


# --- STOMP --------------------------------------------------------------------------------------


def _probe_stomp(endpoint: Endpoint, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    with _dial(endpoint, timeout) as sock:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        sock.sendall(_connect_frame(endpoint))
        command, headers, body = _read_frame(sock, deadline)
        if command != "CONNECTED":
            detail = headers.get("message") or body or "without a reason"
            raise ProbeFailed(f"the broker answered {command or 'nothing'}: {detail}")
        sock.sendall(b"DISCONNECT\n\n\0")
        server = headers.get("server", "").replace("/", " ", 1)
        return f"{server} STOMP {headers.get('version', '1.0')}".strip()


def _connect_frame(endpoint: Endpoint) -> bytes:
    headers = {
        "accept-version": "1.0,1.1,1.2",
        "host": _vhost(endpoint),
        "login": endpoint.username,
        "passcode": endpoint.password,
        "heart-beat": "0,0",
    }
    said = {name: value for name, value in headers.items() if value is not None}
    if any(character in value for value in said.values() for character in "\r\n\0"):
        raise ProbeFailed("a line end in vhost or credentials can't be sent over STOMP")
    lines = "".join(f"{name}:{value}\n" for name, value in said.items())
    return f"CONNECT\n{lines}\n\0".encode()


def _read_frame(sock: socket.socket, deadline: float) -> tuple[str, dict[str, str], str]:
    data = b""
    while b"\0" not in data:
        if len(data) > LARGEST_FRAME:
            raise ProbeFailed("the answer is not STOMP")
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = sock.recv(4096)
        if not chunk:
            raise ProbeFailed("the connection was closed before an answer; is this a STOMP port?")
        data += chunk
    text = data.partition(b"\0")[0].decode("utf-8", "replace").replace("\r\n", "\n").lstrip("\n")
    head, _, body = text.partition("\n\n")
    command, *lines = head.split("\n")
    return command, dict(line.partition(":")[::2] for line in reversed(lines)), body.strip()


def _vhost(endpoint: Endpoint) -> str:
    return unquote(endpoint.path[1:]) or "/"


# --- AMQP and what kombu knows ------------------------------------------------------------------


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ProbeFailed(f'{name} is not installed: pip install "understudy[{extra}]"') from error


def _probe_amqp(endpoint: Endpoint, timeout: float) -> str:
    tls = endpoint.options
    context = endpoint.scheme == "amqps" and {
        "server_hostname": None if tls.verify is False else tls.server_hostname or endpoint.host,
        "cert_reqs": ssl.CERT_NONE if tls.verify is False else ssl.CERT_REQUIRED,
        "ca_certs": tls.cafile,
        "certfile": tls.certfile,
        "keyfile": tls.keyfile,
    }
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    connection = _library("amqp", "kombu").Connection(
        f"{host}:{endpoint.port or DEFAULT_PORTS['amqps' if context else 'amqp']}",
        userid=endpoint.username or "guest",
        password=endpoint.password or "guest",
        login_method=endpoint.query.get("login_method", "PLAIN"),
        virtual_host=_vhost(endpoint),
        ssl=context,
        connect_timeout=timeout,
        read_timeout=timeout,
        write_timeout=timeout,
    )
    try:
        connection.connect()
        told = connection.server_properties
        connection.close()
        return f"{told.get('product', '')} {told.get('version', '')}".strip()
    finally:
        connection.collect()


def _probe_kombu(endpoint: Endpoint, timeout: float) -> str:
    options: dict[str, Any] = {}
    secure: Any = False
    if endpoint.scheme in ("redis", "rediss"):
        options = {"socket_connect_timeout": timeout, "socket_timeout": timeout}
        if endpoint.scheme == "rediss":
            secure = _redis_tls(endpoint)
    connect = _library("kombu", "kombu").Connection
    try:  # kombu imports the transport and its library now
        connection = connect(
            endpoint.uri, connect_timeout=timeout, transport_options=options, ssl=secure
        )
        transport = connection.transport
    except ImportError as error:
        known = endpoint.scheme in ("redis", "rediss", "sentinel")
        package = "understudy[redis]" if known else f"kombu[{endpoint.scheme}]"
        raise ProbeFailed(f'{error}; pip install "{package}"') from error
    opened = transport.establish_connection()  # not connect(), which sleeps and tries again
    try:
        channel = connection.channel()
        if options:
            return f"Redis {channel.client.info('server').get('redis_version', '')}".strip()
        return str(transport.driver_type)
    finally:
        transport.close_connection(opened)


def _redis_tls(endpoint: Endpoint) -> dict[str, Any]:
    tls = endpoint.options
    said = {"ca_certs": tls.cafile, "certfile": tls.certfile, "keyfile": tls.keyfile}
    options: dict[str, Any] = {f"ssl_{name}": value for name, value in said.items() if value}
    if tls.verify is False:
        return {**options, "ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}
    return {**options, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
