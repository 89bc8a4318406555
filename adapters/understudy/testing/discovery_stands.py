"""Stands for discovery agents: each kind with a source that a test has say what it likes."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from understudy.discovery import DiscoveryAgent, MemoryAgent, make_agent
from understudy.discovery.datagram import Announcement
from understudy.testing.brokers.ports import free_port
from understudy.testing.clock import wait_until

__all__ = ["FileStand", "HttpStand", "MemoryStand", "MulticastStand", "Recorder", "Stand"]

MULTICAST = "239.255.2.3"


class Stand(Protocol):
    """An agent, and a source that says what it is told to."""

    @property
    def agent(self) -> DiscoveryAgent: ...

    def tell(self, *addresses: str) -> None:
        """From now on the source knows exactly these."""

    def fail(self) -> None:
        """It cannot be asked until it is told something again. Raises NotImplementedError."""

    def hang(self) -> None:
        """It takes every question and answers none."""

    def babble(self) -> None:
        """It says what is no list, until it is told something again."""

    def close(self) -> None:
        """The source's; the agent is stopped by then."""


class Recorder:
    """What an agent reports."""

    def __init__(self) -> None:
        self.all: list[tuple[str, ...] | str] = []

    def found(
        self, addresses: Iterable[str], *, rebalance: bool = False, move_to: str | None = None
    ) -> None:
        self.all.append(tuple(addresses))

    def failed(self, cause: str) -> None:
        self.all.append(cause)

    @property
    def last(self) -> tuple[str, ...] | str | None:
        return self.all[-1] if self.all else None

    def has_last(self, *addresses: str) -> bool:
        """Wait for that."""
        return wait_until(lambda: isinstance(self.last, tuple) and {*self.last} == {*addresses})

    def has_failed(self) -> bool:
        return wait_until(lambda: isinstance(self.last, str))


class MemoryStand:
    def __init__(self, _: Path) -> None:
        self.agent = MemoryAgent()

    def tell(self, *addresses: str) -> None:
        self.agent.announce(*addresses)

    def fail(self) -> None:
        self.agent.fail("by the script")

    def hang(self) -> None:
        pass

    def babble(self) -> None:
        self.agent.announce("?", "")

    def close(self) -> None:
        pass


class FileStand:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "uris, all.txt"
        place = str(self._path).replace(" ", "%20").replace(",", "%2C")
        self.agent = make_agent(f"file:{place}?updateInterval=20")

    def tell(self, *addresses: str) -> None:
        other = self._path.with_suffix(".new")
        other.write_text("\n".join(addresses) or "# none")
        other.replace(self._path)

    def fail(self) -> None:
        self._path.unlink(missing_ok=True)

    def hang(self) -> None:
        self._path.unlink(missing_ok=True)
        os.mkfifo(self._path)  # which a plain open would wait for

    def babble(self) -> None:
        self._path.write_bytes(b"\xff\xfe\0")

    def close(self) -> None:
        pass


class _Page(http.server.BaseHTTPRequestHandler):
    stand: HttpStand

    def do_GET(self) -> None:
        stand = self.stand
        if stand.hangs:
            stand.over.wait(30)
        elif stand.body is None:
            self.send_error(503)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(stand.body)

    def log_message(self, *_: Any) -> None:
        pass


class HttpStand:
    def __init__(self, _: Path) -> None:
        self.body: bytes | None = b"# none"
        self.hangs = False
        self.over = threading.Event()
        handler = type("Handler", (_Page,), {"stand": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.port = self._server.server_address[1]
        self.agent = make_agent(f"http://127.0.0.1:{self.port}/uris?updateInterval=20&x=1")

    def tell(self, *addresses: str) -> None:
        self.body = ",".join(addresses).encode() or b"# none"

    def fail(self) -> None:
        self.body = None

    def hang(self) -> None:
        self.hangs = True

    def babble(self) -> None:
        self.body = b"\xff" * 100_000

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class MulticastStand:
    """Announces on the loopback interface, as ActiveMQ does, but ten times as often."""

    def __init__(self, _: Path) -> None:
        self._port = free_port()
        self._addresses: tuple[str, ...] = ()
        self._noise: tuple[bytes, ...] = ()
        self._over = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        loopback = socket.inet_aton("127.0.0.1")
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        self._thread = threading.Thread(target=self._announce, daemon=True)
        self._thread.start()
        options = "group=test&keepAliveInterval=50&joinNetworkInterface=lo"
        self.agent = make_agent(f"multicast://{MULTICAST}:{self._port}?{options}")

    def _announce(self) -> None:
        while not self._over.wait(0.02):
            for data in self._noise:
                self._socket.sendto(data, (MULTICAST, self._port))
            for address in self._addresses:
                self.send(Announcement("test", address))

    def send(self, announcement: Announcement) -> None:
        self._socket.sendto(announcement.encode(), (MULTICAST, self._port))

    def tell(self, *addresses: str) -> None:
        self._addresses, self._noise = addresses, ()

    def fail(self) -> None:
        raise NotImplementedError("it has no source; silence means that nobody is there")

    def hang(self) -> None:
        self._addresses = ()

    def babble(self) -> None:
        other = Announcement("other", "amqp://foreign").encode()
        self._noise = (b"", b"\xff" * 100, b"x" * 9000, other, b"test.ActiveMQ-4.alive.%")

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()
