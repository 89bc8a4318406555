"""``http://host/uris`` and ``https:``: a list that a web server knows, asked every ten seconds.

Options: ``updateInterval`` (ms, default 10000), taken out of the query; the rest is the server's.

Rules
* One question takes at most `PATIENCE`, whatever the server does, and reads at most 64 KB. Only the
  system's own look-up of its name can't be broken off.
* A redirect is followed to http: and https: only, and from https: to https: only. A userinfo in
  the address is sent as basic authentication, to that server alone.
* Certificates are verified. No proxy is asked: the list is on the brokers' own network.
* The socket is known here from its first moment, so that stop() can break it off, and a forked
  child can close its copy.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import threading
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from understudy.core.redact import Source, redact
from understudy.discovery.polled import LARGEST, PolledAgent
from understudy.discovery.query import split_options, whole_number
from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.monitor import monitor

__all__ = ["HttpAgent"]

INTERVAL = 10_000  # ms; ActiveMQ's registry agent
PATIENCE = 5.0  # s; what one broker may take to be connected to
REDIRECTS = 3
REDIRECTED = frozenset({301, 302, 303, 307, 308})


class HttpAgent(PolledAgent):
    def __init__(self, url: SplitResult, interval: float) -> None:
        super().__init__(interval)
        self._url = url
        self._lock = threading.Lock()  # of the question's socket; the agent's own, for forks
        forking.register(self)

    @classmethod
    def of(cls, address: str) -> HttpAgent:
        """The agent of an ``http:`` or ``https:`` address; raises ConfigurationError."""
        source = Source(address)
        try:
            url = urlsplit(address)
            valid = url.hostname and url.port != 0
        except ValueError:
            valid = False
        if not valid or "//" not in address:
            raise source.error("that is no http: address; write http://host:port/path")
        ours, rest = split_options(url.query, {"updateInterval"}, source, rest_is_theirs=True)
        interval = whole_number(ours, "updateInterval", INTERVAL, 10, 86_400_000, source)
        return cls(url._replace(query=rest, fragment=""), interval / 1000)

    def __repr__(self) -> str:
        return f"<HttpAgent {redact(self._url.geturl())}>"

    def reader(self) -> _Question:
        return _Question(self._url, self._lock)

    def hold(self) -> None:
        self._lock.acquire()

    def let_go(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        self._lock = threading.Lock()
        for run in self._runs:
            if isinstance(run.reader, _Question):
                run.reader.abandon()
        self._runs, self._run = set(), None


class _Question:
    """One GET, redirects included."""

    def __init__(self, url: SplitResult, lock: threading.Lock) -> None:
        self._url = url
        self._lock = lock
        self._socket: socket.socket | None = None
        self._is_cut = False

    def read(self) -> bytes:
        deadline = Deadline(PATIENCE)
        url = self._url
        with monitor.alarm(PATIENCE, self.cut):
            for _ in range(REDIRECTS + 1):
                body, target = self._get(url, deadline)
                if target is None:
                    return body
                url = _redirected(url, target)
        raise OSError(f"more than {REDIRECTS} redirects")

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # not connected yet, or not any more
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def abandon(self) -> None:
        """In a forked child: close the descriptor."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                os.close(self._socket.detach())  # close() would wait for the response's own file
        self._socket = None

    def _get(self, url: SplitResult, deadline: Deadline) -> tuple[bytes, str | None]:
        """The body, or where else to ask."""
        host = url.hostname or ""
        try:
            connection = self._connection(url.scheme, host, url.port, deadline)
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("GET", path, headers=self._headers(url))
            with connection.getresponse() as answer:
                if answer.status in REDIRECTED:
                    return b"", answer.headers.get("Location") or ""
                if answer.status != 200:
                    raise OSError(f"the server answered {answer.status}")
                body = answer.read(LARGEST + 1)
                if answer.length and len(body) <= LARGEST:
                    raise OSError("the list ends too early")
                return body, None
        except TimeoutError:
            raise TimeoutError(f"no answer within {PATIENCE:g} s") from None
        finally:
            self._close()
            if deadline.remaining() == 0:  # then the alarm broke it off
                raise TimeoutError(f"no answer within {PATIENCE:g} s")

    def _connection(
        self, scheme: str, host: str, port: int | None, deadline: Deadline
    ) -> http.client.HTTPConnection:
        """A connection of http.client's over our socket."""
        secure = scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(host, port)
        raw = self._connect(host, connection.port, deadline)
        if secure:
            context = ssl.create_default_context()
            tls = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
            self._own(tls)
            tls.do_handshake()
        connection.sock = self._socket
        return connection

    def _connect(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        error: OSError | None = None
        for family, kind, protocol, _, place in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            with self._lock:
                raw = self._socket = socket.socket(family, kind, protocol)
            self._own(raw)
            raw.settimeout(max(deadline.remaining(), 0.001))
            try:
                raw.connect(place)
            except OSError as exc:
                error = exc
                self._close()
            else:
                return raw
        raise error or OSError("the host has no address")

    def _own(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock
            if self._is_cut:
                raise OSError("broken off")

    def _close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None

    def _headers(self, url: SplitResult) -> dict[str, str]:
        headers = {"Accept": "text/plain", "Connection": "close", "User-Agent": "understudy"}
        first = self._url
        if first.username is not None and _origin(url) == _origin(first):
            login = f"{unquote(first.username)}:{unquote(first.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return headers


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port


def _redirected(url: SplitResult, target: str) -> SplitResult:
    there = urlsplit(urljoin(url.geturl(), target))
    if there.scheme not in ("http", "https") or not there.hostname:
        raise OSError(f"the server redirects to a {there.scheme[:20]}: address, which is not asked")
    if (url.scheme, there.scheme) == ("https", "http"):
        raise OSError("the server redirects from https: to http:, which is not followed")
    return there
