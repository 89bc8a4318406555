"""Messages over a socket pair: whole, in order, and with descriptors.

A message too long for the socket (a broker's environment may be) travels in memory of its own.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict

from understudyd.guard import words
from understudyd.guard.words import Message

__all__ = ["Wire"]

INLINE = 16 * 1024  # bytes; a socket takes some 200 KB
DESCRIPTORS = 16  # at most, with one message
LONG = b"long"


class Wire:
    """One end; it does not block."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)

    @staticmethod
    def pair() -> tuple[Wire, Wire]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Wire(ours), Wire(theirs)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Raises OSError when the other end is gone, or has not read for very long."""
        data = json.dumps([type(message).__name__, asdict(message)]).encode()
        if len(data) <= INLINE:
            self._send(data, descriptors)
            return
        memory = os.memfd_create("understudy-message")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(data)
            self._send(LONG, [memory, *descriptors])
        finally:
            os.close(memory)

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message, with descriptors that are ours to close; None: nothing more by now.

        Raises EOFError when the other end is gone.
        """
        room = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
        try:
            data, extra, _, _ = self.socket.recvmsg(2 * INLINE, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data, extra = b"", []
        if not data:
            raise EOFError
        descriptors = array.array("i")
        for _, kind, content in extra:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % 4])
        others = list(descriptors)
        if data == LONG:
            with open(others.pop(0), "rb") as file:
                file.seek(0)
                data = file.read()
        return _decode(data), others

    def close(self) -> None:
        self.socket.close()

    def _send(self, data: bytes, descriptors: Sequence[int]) -> None:
        rights = array.array("i", descriptors)
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        self.socket.sendmsg([data], extra)


def _decode(data: bytes) -> Message:
    name, values = json.loads(data)
    if values.get("lock"):
        values["lock"] = words.Lock(**values["lock"])
    message: Message = getattr(words, name)(**{key: _frozen(values[key]) for key in values})
    return message


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
