"""A STOMP peer that does what a test tells it: for what no real broker can be made to do.

``with StompPeer(refuse_login, serve) as peer:`` serves the first connection with the first
behaviour and every further one with the last. A behaviour is called with a `Talk` in a thread of
its own and ends the connection by returning. It listens on 127.0.0.1, at ``peer.port``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

__all__ = [
    "Behaviour",
    "StompPeer",
    "Talk",
    "be_silent",
    "drip",
    "refuse_login",
    "say",
    "serve",
]

SERVER = "RabbitMQ/3.10.8"
PATIENCE = 30.0  # s a behaviour waits for its client; far more than any machine needs


class Over(Exception):
    """The client has gone, or the peer was closed."""


class Talk:
    """One connection, from the broker's side."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.number = number  # counted over the connections of the peer, from 1
        self._sock = sock
        self._buffer = b""
        sock.settimeout(PATIENCE)

    def read(self) -> tuple[str, dict[str, str], bytes]:
        """The next frame: command, headers as written, body."""
        while True:
            self._buffer = self._buffer.lstrip(b"\r\n")
            head, blank, rest = self._buffer.partition(b"\n\n")
            if blank:
                command, *lines = head.decode().split("\n")
                headers = dict(line.split(":", 1) for line in reversed(lines))
                size = int(headers.get("content-length", rest.find(b"\0")))
                if 0 <= size < len(rest):
                    self._buffer = rest[size + 1 :]
                    return command, headers, rest[:size]
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(65536)
        except OSError as exc:
            raise Over from exc
        if not data:
            raise Over
        self._buffer += data

    def write(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as exc:
            raise Over from exc

    def frame(self, command: str, headers: Mapping[str, object], body: bytes = b"") -> None:
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        self.write(f"{command}\n{lines}\n".encode() + body + b"\0\n")

    def log_in(self, server: str = SERVER, beats: str = "0,0") -> dict[str, str]:
        """Read CONNECT and answer it; the client's headers."""
        _, headers, _ = self.read()
        version = headers["accept-version"].split(",")[-1]
        self.frame("CONNECTED", {"version": version, "server": server, "heart-beat": beats})
        return headers

    def receipt(self, headers: Mapping[str, str]) -> None:
        """The receipt that these headers ask for, if they do."""
        if "receipt" in headers:
            self.frame("RECEIPT", {"receipt-id": headers["receipt"]})

    def wait_for_end(self) -> None:
        """Read until the client has gone."""
        with contextlib.suppress(Over):
            while True:
                self._receive()

    def reset(self) -> None:
        """End the connection with RST instead of FIN, when the behaviour returns."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Behaviour = Callable[[Talk], None]


class StompPeer:
    host = "127.0.0.1"

    def __init__(self, *behaviours: Behaviour) -> None:
        self.accepted = 0
        self._behaviours = behaviours or (serve,)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> StompPeer:
        threading.Thread(target=self._accept, name=f"StompPeer-{self.port}", daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """How many are open now."""
        with self._lock:
            return len(self._open)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                number = self.accepted
                self._open.add(sock)
            behaviour = self._behaviours[min(number, len(self._behaviours)) - 1]
            name = f"StompPeer-{self.port}-{number}"
            threading.Thread(
                target=self._talk, args=(behaviour, sock, number), name=name, daemon=True
            ).start()

    def _talk(self, behaviour: Behaviour, sock: socket.socket, number: int) -> None:
        talk = Talk(sock, number)
        try:
            behaviour(talk)
        except Over:
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
                sock.close()


# --- behaviours -----------------------------------------------------------------------------------


def be_silent(talk: Talk) -> None:
    """Accept, and never say anything."""
    talk.wait_for_end()


def refuse_login(talk: Talk) -> None:
    talk.read()
    talk.frame("ERROR", {"message": "Bad CONNECT"}, b"Access refused")


def serve(talk: Talk) -> None:
    """Log in, and give every receipt that is asked for."""
    talk.log_in()
    for command, headers, _ in frames(talk):
        talk.receipt(headers)
        if command == "DISCONNECT":
            return


def frames(talk: Talk) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Everything that the client sends."""
    while True:
        yield talk.read()


def say(data: bytes) -> Behaviour:
    """Answer CONNECT with these bytes, whatever they are, then wait for the client to leave."""

    def behaviour(talk: Talk) -> None:
        talk.read()
        talk.write(data)
        talk.wait_for_end()

    return behaviour


def drip(data: bytes, seconds: float) -> Behaviour:
    """Answer CONNECT with these bytes, one every so many seconds."""

    def behaviour(talk: Talk) -> None:
        talk.read()
        for byte in data:
            talk.write(bytes([byte]))
            time.sleep(seconds)
        talk.wait_for_end()

    return behaviour
