"""What discovery agents read, for tests that change it: a file, a web server, multicast.

Each has `write` for what is to be there, and `agent`, the address to write in a URI.
"""

from __future__ import annotations

import http.server
import socket
import threading
from pathlib import Path
from typing import Any

from understudy.discovery.datagram import Announcement
from understudy.testing.brokers.ports import free_port

__all__ = ["MULTICAST", "Announcer", "UriFile", "UriServer", "bare"]

MULTICAST = "239.255.2.3"


def bare(place: Any) -> str:
    """An address as lists have it."""
    return f"amqp://{place.host}:{place.port}"


class UriFile:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "brokers.txt"
        self.agent = f"file://{self.path}?updateInterval=20"
        self.write()

    def write(self, *places: Any, separator: str = "\n") -> None:
        other = self.path.with_suffix(".new")
        other.write_text(separator.join(map(bare, places)) or "# none")
        other.replace(self.path)


class UriServer:
    """A web server that knows a list."""

    def __init__(self) -> None:
        self.text = "# none"
        self.questions: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.questions.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(outer.text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.agent = f"http://127.0.0.1:{self._server.server_address[1]}/uris?updateInterval=20"

    def write(self, *places: Any) -> None:
        self.text = ",".join(map(bare, places)) or "# none"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Announcer:
    """Brokers that announce themselves on the loopback interface."""

    def __init__(self) -> None:
        self.port = free_port()
        loop = "joinNetworkInterface=lo"
        self.agent = f"multicast://{MULTICAST}:{self.port}?keepAliveInterval=100&{loop}"
        self._addresses: tuple[str, ...] = ()
        self._over = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        loopback = socket.inet_aton("127.0.0.1")
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            for address in self._addresses:
                self._send(Announcement("default", address))

    def _send(self, announcement: Announcement) -> None:
        self._socket.sendto(announcement.encode(), (MULTICAST, self.port))

    def write(self, *places: Any) -> None:
        before, self._addresses = self._addresses, tuple(map(bare, places))
        for address in set(before) - set(self._addresses):
            self._send(Announcement("default", address, is_alive=False))

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()
