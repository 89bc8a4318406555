"""One proxied connection: the client's socket, the target's socket, and the two pipes between them.

Runs in the proxy's thread only. Ends are passed on as they came, after everything that was sent
before them: an orderly end as an orderly end, a reset as a reset.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from understudy.testing.proxy_cuts import ByteCut, Cut, Direction
from understudy.testing.proxy_loop import Loop
from understudy.testing.proxy_pipe import Conditions, Pipe

__all__ = ["Link", "Shared"]

CHUNK = 65536
LINGER_RST = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN
SIOCOUTQNSD = 0x894B  # Linux: bytes the kernel has not put on the wire yet
UNSENT_PAUSE = 0.001  # seconds between two looks at it
MOST_UNREAD = 256  # chunks; a peer that never stops sending must not keep the thread

Address = tuple[Any, ...]


@dataclass
class Shared:
    """What the links of one proxy have in common."""

    loop: Loop
    conditions: Conditions
    family: socket.AddressFamily
    target: Address
    on_closed: Callable[[Link], None]
    bytes_up: int = 0
    bytes_down: int = 0


class Link:
    """A client's connection and, unless the network is silent, ours to the target."""

    def __init__(self, client: socket.socket, shared: Shared) -> None:
        self.is_open = True
        self.is_hole = False  # a black hole of its own
        self._shared = shared
        self._client = client
        self._target: socket.socket | None = None
        self._is_connected = False
        self._is_striking = False
        self._budgets: dict[ByteCut, int] = {}
        self._up = Pipe("up", shared.conditions, self._budgets)
        self._down = Pipe("down", shared.conditions, self._budgets)
        self._stuck: set[Direction] = set()  # whose sink takes no more for now
        self._ended: set[Direction] = set()  # whose end was passed on
        for cut in shared.conditions.byte_cuts:
            self.count_bytes(cut)
        prepare(client)

    def __repr__(self) -> str:
        return f"<Link open={self.is_open} {self._up!r} {self._down!r}>"

    def count_bytes(self, cut: ByteCut) -> None:
        """Begin to count for ``cut``."""
        self._budgets[cut] = cut.n_bytes

    def refresh(self) -> None:
        """The conditions have changed: do what is possible now."""
        if self.is_open and self._target is None and not self._shared.conditions.is_silent:
            self._connect()
        if self.is_open:
            self._move(self._up)
            self._move(self._down)

    def reset(self) -> None:
        """Cut both connections with RST; bytes under way are lost."""
        for sock in self._take_sockets():
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
            sock.close()

    def finish(self) -> None:
        """End both connections with FIN, as a process does that closes its sockets."""
        for sock in self._take_sockets():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
                for _ in range(MOST_UNREAD):  # what lies unread would turn the FIN into a RST
                    if not sock.recv(CHUNK):
                        break
            sock.close()

    def _take_sockets(self) -> list[socket.socket]:
        """Mark the link closed; the sockets are ours to close."""
        if not self.is_open:
            return []
        self.is_open = False
        sockets = [sock for sock in (self._client, self._target) if sock is not None]
        for sock in sockets:
            self._shared.loop.watch(sock, 0, self._on_client)
        self._shared.loop.call_at(self, None, self.refresh)
        self._shared.on_closed(self)
        return sockets

    def _connect(self) -> None:
        target = self._target = socket.socket(self._shared.family, socket.SOCK_STREAM)
        prepare(target)
        if target.connect_ex(self._shared.target) in (0, errno.EINPROGRESS):
            self._watch()
        else:
            self.reset()

    def _connected(self) -> None:
        target = self._target
        assert target is not None
        error = target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        # A free port of ours as both ends: TCP then connects a socket to itself.
        if error or target.getsockname() == target.getpeername():
            self.reset()
            return
        self._is_connected = True
        self.refresh()

    def _on_client(self, events: int) -> None:
        self._ready(self._client, self._up, self._down, events)

    def _on_target(self, events: int) -> None:
        if self.is_open and self._target is not None:
            if self._is_connected:
                self._ready(self._target, self._down, self._up, events)
            else:
                self._connected()

    def _ready(self, sock: socket.socket, outward: Pipe, inward: Pipe, events: int) -> None:
        if self.is_open and events & EVENT_READ:
            self._read(sock, outward)
        if self.is_open and events & EVENT_WRITE:
            self._move(inward)

    def _read(self, sock: socket.socket, pipe: Pipe) -> None:
        now = time.monotonic()
        try:
            data = sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            pipe.finish("rst", now)
        else:
            if data:
                pipe.feed(data, now)
            else:
                pipe.finish("fin", now)
        self._move(pipe)

    def _may_pass(self, pipe: Pipe) -> bool:
        """Whether anything at all moves in this direction now."""
        return (
            self.is_open
            and self._is_connected
            and not self.is_hole
            and not self._is_striking
            and self._shared.conditions.passes(pipe.direction)
        )

    def _move(self, pipe: Pipe) -> None:
        """Pass on what may be passed on, make the cut that is due, and wait for what comes next."""
        sink = self._target if pipe is self._up else self._client
        assert sink is not None or not self._is_connected
        self._stuck.discard(pipe.direction)
        now = time.monotonic()
        while sink is not None and self._may_pass(pipe):
            step = pipe.next_step(now)
            if step is None:
                if pipe.is_drained(now):
                    self._pass_end(pipe, sink)
                break
            if isinstance(step, Cut):
                if has_unsent(sink):
                    pipe.wake_at = now + UNSENT_PAUSE
                    break
                self._strike(pipe, step)
            elif not self._send(pipe, sink, step, now):
                break
        if self.is_open:
            self._watch()

    def _send(self, pipe: Pipe, sink: socket.socket, step: bytes | memoryview, now: float) -> bool:
        try:
            sent = sink.send(step)
        except BlockingIOError:
            self._stuck.add(pipe.direction)
            return False
        except OSError:
            # The sink was reset. What it sent before that still lies in its socket: read it first.
            pipe.discard()
            pipe.finish("rst", now)
            self._ended.add(pipe.direction)
            if len(self._ended) == 2:
                self.reset()
            return False
        pipe.advance(sent, now)
        if pipe.direction == "up":
            self._shared.bytes_up += sent
        else:
            self._shared.bytes_down += sent
        return True

    def _pass_end(self, pipe: Pipe, sink: socket.socket) -> None:
        if pipe.direction in self._ended:
            return
        self._ended.add(pipe.direction)
        if pipe.end == "rst" or "rst" in (self._up.end, self._down.end):
            self.reset()
        elif len(self._ended) == 2:
            self.finish()
        else:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def _strike(self, pipe: Pipe, cut: Cut) -> None:
        pipe.struck(cut)
        self._is_striking = True  # ``then`` may call the proxy; nothing moves here meanwhile
        try:
            cut.strike()
        finally:
            self._is_striking = False
        self._shared.conditions.drop_disarmed()
        if cut.how == "rst":
            self.reset()
        elif cut.how == "fin":
            self.finish()
        else:
            self.is_hole = True
        cut.struck()

    def _watch(self) -> None:
        """Tell the loop what this link waits for."""
        loop = self._shared.loop
        loop.watch(self._client, self._mask(self._up, self._down), self._on_client)
        if self._target is not None:
            connecting = 0 if self._is_connected else EVENT_WRITE
            mask = connecting or self._mask(self._down, self._up)
            loop.watch(self._target, mask, self._on_target)
        wakes = [
            pipe.wake_at
            for pipe in (self._up, self._down)
            if pipe.wake_at is not None and self._may_pass(pipe)
        ]
        loop.call_at(self, min(wakes) if wakes else None, self.refresh)

    def _mask(self, outward: Pipe, inward: Pipe) -> int:
        reads = self._may_pass(outward) and outward.end is None and not outward.is_full
        writes = self._may_pass(inward) and inward.direction in self._stuck
        return (EVENT_READ if reads else 0) | (EVENT_WRITE if writes else 0)


def prepare(sock: socket.socket) -> None:
    """No blocking; and no Nagle, which would delay what the proxy passes on at once."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def has_unsent(sock: socket.socket) -> bool:
    """Whether a reset now would take bytes with it that have been passed already."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        answer = fcntl.ioctl(sock, SIOCOUTQNSD, b"\0" * 4)
    except OSError:
        return False
    return bool(struct.unpack("i", answer)[0])
