"""The socket of one connection of a ``ScriptedPeer``: frames in, frames out, heartbeats, its end.

The connection's own thread reads and closes; any thread may send or ask for the end.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from typing import Any, Literal

from understudy.testing.frames import (
    BODY,
    HEADER,
    HEARTBEAT,
    IDS,
    METHOD,
    Frame,
    MethodId,
    encode_frame,
    take_frames,
)

__all__ = ["Over", "Wire", "serialization"]

LINGER_RST = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN
HEARTBEAT_FRAME = encode_frame(HEARTBEAT, 0, b"")
CONTENT_HEADER = struct.Struct(">HHQ")
CLASS_BASIC = 60


class Over(Exception):
    """The connection has ended."""


def serialization() -> Any:
    """py-amqp's module for arguments; imported here, as only this part of the package needs it."""
    try:
        from amqp import serialization as module
    except ImportError as exc:
        text = "ScriptedPeer needs py-amqp: pip install 'understudy[kombu]'"
        raise ImportError(text) from exc
    return module


class Wire:
    """Frames over one accepted socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.frame_max = 131072
        self.heartbeat = 0.0  # seconds; 0 = none
        self.beats = True  # False: the heartbeats stop though they were agreed on
        self.heartbeats_received = 0
        self.drip = 0.0  # seconds between two bytes sent
        self._sock = sock
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()
        self._ending: Literal["fin", "rst"] | None = None
        self._over = threading.Event()
        self._waker, self._wakee = socket.socketpair()
        self._send_lock = threading.Lock()
        self._sent_at = time.monotonic()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are; a client that has gone is no error."""
        with self._send_lock, contextlib.suppress(OSError):
            self._sent_at = time.monotonic()
            if not self.drip:
                self._sock.sendall(data)
                return
            for byte in data:
                self._sock.sendall(bytes([byte]))
                if self._over.wait(self.drip):
                    return

    def send_method(self, channel: int, method: MethodId, arguments: bytes = b"") -> None:
        """Send a method with encoded arguments."""
        self.send_raw(encode_frame(METHOD, channel, IDS.pack(*method) + arguments))

    def send_content(
        self, channel: int, method: MethodId, arguments: bytes, properties: bytes, body: bytes
    ) -> None:
        """Send a method with its content, in one piece; nothing of ours comes between."""
        header = CONTENT_HEADER.pack(CLASS_BASIC, 0, len(body)) + properties
        step = self.frame_max - 8
        frames = [(METHOD, IDS.pack(*method) + arguments), (HEADER, header)]
        frames += [(BODY, body[at : at + step]) for at in range(0, len(body), step)]
        self.send_raw(b"".join(encode_frame(kind, channel, data) for kind, data in frames))

    def end(self, how: Literal["fin", "rst"]) -> None:
        """Ask the connection's thread to close the socket."""
        self._ending = self._ending or how
        self._over.set()
        with contextlib.suppress(OSError):
            self._waker.send(b"!")
            if how == "fin":  # frees a thread that is stuck in sending, too
                self._sock.shutdown(socket.SHUT_RDWR)

    def read_exactly(self, n_bytes: int) -> bytes:
        """The next bytes, outside any frame."""
        while len(self._buffer) < n_bytes:
            self.fill(None)
        data = bytes(self._buffer[:n_bytes])
        del self._buffer[:n_bytes]
        return data

    def read_frame(self) -> Frame:
        """The next frame that is not a heartbeat; sends ours meanwhile. Raises ``Over``."""
        while True:
            if self._ending is not None:  # what lies here already is not for us any more
                raise Over
            self._frames.extend(take_frames(self._buffer))
            if not self._frames:
                self.fill(self.beat())
                continue
            frame = self._frames.popleft()
            if frame.kind != HEARTBEAT:
                return frame
            self.heartbeats_received += 1

    def read_nothing(self) -> None:
        """Swallow what comes, say nothing, until the connection ends (raises ``Over``)."""
        while True:
            self._buffer.clear()
            self.fill(None)

    def beat(self) -> float | None:
        """Send a heartbeat if one is due; seconds until the next one, None = there is none."""
        if not (self.heartbeat and self.beats):
            return None
        pause = self.heartbeat / 2  # as RabbitMQ does
        if time.monotonic() - self._sent_at >= pause:
            self.send_raw(HEARTBEAT_FRAME)
        return max(0.0, self._sent_at + pause - time.monotonic())

    def pause(self, seconds: float | None) -> None:
        """Wait without reading; raises ``Over`` when the connection ends meanwhile."""
        if self._over.wait(seconds):
            raise Over

    def fill(self, timeout: float | None) -> None:
        """Read what there is, or wait for it; raises ``Over`` at the end."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._wakee, select.POLLIN)
        ready = poller.poll(None if timeout is None else timeout * 1000)
        if self._ending is not None:
            raise Over
        if not ready:
            return
        try:
            data = self._sock.recv(65536)
        except OSError as exc:
            raise Over from exc
        if not data:
            raise Over
        self._buffer += data

    def close(self) -> None:
        """Connection's thread: close everything."""
        self._over.set()
        with self._send_lock:
            with contextlib.suppress(OSError):
                if self._ending == "rst":
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
                else:
                    self._sock.shutdown(socket.SHUT_WR)
            self._sock.close()
            self._waker.close()
            self._wakee.close()
