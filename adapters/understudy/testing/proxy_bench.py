"""A target behind a fault proxy, and what tests of the proxy do with sockets."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from typing import Literal

from understudy.testing import FaultProxy
from understudy.testing.proxy_cuts import Direction

__all__ = ["PATIENCE", "Bench", "Pair", "read_exactly", "read_to_end", "send_quietly", "turned"]


PATIENCE = 60.0  # for what must happen

Pair = tuple[socket.socket, socket.socket]  # the client's and the target's end of one connection


class Bench:
    """A listening target, a proxy before it, and whatever connections a test makes."""

    def __init__(self, stack: ExitStack, address: Literal["127.0.0.1", "::1"]) -> None:
        self.stack = stack
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = self.own(socket.create_server((address, 0), family=family))
        self.listener.settimeout(PATIENCE)
        self.target_port = self.listener.getsockname()[1]
        self.proxy = stack.enter_context(FaultProxy(address, self.target_port, listen_host=address))

    def own(self, sock: socket.socket) -> socket.socket:
        return self.stack.enter_context(sock)

    def client(self) -> socket.socket:
        return self.own(socket.create_connection((self.proxy.host, self.proxy.port), PATIENCE))

    def target(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        return self.own(sock)

    def pair(self) -> Pair:
        return self.client(), self.target()

    def nobody_came(self) -> bool:
        """Whether the target has no connection waiting."""
        self.listener.setblocking(False)
        try:
            self.own(self.listener.accept()[0])
        except BlockingIOError:
            return True
        finally:
            self.listener.settimeout(PATIENCE)
        return False


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"ended after {data!r}"
        data += piece
    return data


def read_to_end(sock: socket.socket) -> tuple[bytes, str]:
    """All that comes, and how it ended."""
    data = b""
    while True:
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            return data, "rst"
        if not piece:
            return data, "fin"
        data += piece


def turned(pair: Pair, direction: Direction) -> Pair:
    """(sender, receiver) of that direction."""
    client, target = pair
    return (client, target) if direction == "up" else (target, client)


def send_quietly(sock: socket.socket, data: bytes) -> None:
    """Send to somebody who may cut the connection meanwhile."""
    with suppress(OSError):
        sock.sendall(data)
