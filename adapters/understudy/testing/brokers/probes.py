"""Does a server really answer? One question per protocol, each bounded, none raises."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["answers_amqp", "answers_epmd", "answers_http", "answers_openwire", "answers_redis"]
__all__ += ["answers_stomp"]

_TIMEOUT = 2.0  # a starting server may accept and stay silent; ask it again rather than wait
_AMQP_CONNECTION_START = (10, 10)


@contextlib.contextmanager
def _asked(port: int, question: bytes) -> Iterator[BinaryIO]:
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as connection:
        connection.sendall(question)
        with connection.makefile("rb") as answer:
            yield answer


def answers_amqp(port: int) -> bool:
    """True when the protocol header is answered by a whole Connection.Start method."""
    try:
        with _asked(port, b"AMQP\x00\x00\x09\x01") as answer:
            kind, channel, size = struct.unpack(">BHL", answer.read(7))
            body = answer.read(size + 1)
    except (OSError, struct.error):
        return False
    method = struct.unpack(">HH", body[:4]) if len(body) == size + 1 else None
    return (kind, channel, method) == (1, 0, _AMQP_CONNECTION_START) and body[-1] == 0xCE


def answers_stomp(port: int, login: str = "", passcode: str = "") -> bool:
    """True when CONNECT is answered by CONNECTED."""
    credentials = f"login:{login}\npasscode:{passcode}\n" if login else ""
    frame = f"CONNECT\naccept-version:1.2\nhost:/\n{credentials}\n\0"
    try:
        with _asked(port, frame.encode()) as answer:
            return answer.readline() == b"CONNECTED\n"
    except OSError:
        return False


def answers_openwire(port: int) -> bool:
    """True when the broker sends its WireFormatInfo."""
    try:
        with _asked(port, b"") as answer:
            return answer.read(13)[5:] == b"ActiveMQ"
    except OSError:
        return False


def answers_redis(port: int, password: str | None = None) -> bool:
    """True when PING is answered by PONG."""
    secret = (password or "").encode()
    login = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(secret), secret) if secret else b""
    expected = [b"+OK\r\n"] * bool(secret) + [b"+PONG\r\n"]
    try:
        with _asked(port, login + b"PING\r\n") as answer:
            return [answer.readline() for _ in expected] == expected
    except OSError:
        return False


def answers_http(port: int) -> bool:
    """True when a request is answered by an HTTP status line."""
    try:
        with _asked(port, b"GET / HTTP/1.0\r\n\r\n") as answer:
            return answer.readline().startswith(b"HTTP/1.")
    except OSError:
        return False


def answers_epmd(port: int) -> bool:
    """True when Erlang's port mapper lists its names."""
    try:
        with _asked(port, b"\x00\x01n") as answer:
            return answer.read(4) == struct.pack(">L", port)
    except OSError:
        return False
