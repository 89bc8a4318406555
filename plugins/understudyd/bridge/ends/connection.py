"""One AMQP connection over asyncio: the shell around `wire.amqp.Session`.

Rules
* Reads are of up to `READ_SIZE` bytes; what one read brought is one list of events, and what is
  written in answer to it is one write.
* ``open()`` returns when connection and channel are open, or raises `ConnectionFailed`; TLS
  verifies certificate and name unless the URI says ``verify=false``.
* The end is told once, by ``on_lost``, and never after ``close()``.
* A peer that is silent for two heartbeats is lost. While we do not read, its silence says nothing.
* No text here holds a password: what is shown of an endpoint is its redacted form.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from understudy.core.endpoint import Endpoint
from understudy.core.redact import redact
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.wire.amqp import Closed, Login, Opened, Session, SessionEvent
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import HEARTBEAT
from understudyd.bridge.wire.reader import Event, Told
from understudyd.bridge.wire.tables import Table

__all__ = ["SCHEMES", "Connection", "Hooks"]

READ_SIZE = 256 << 10  # bytes
WRITE_SIZE = 1 << 20  # bytes on our side, above which the target counts as congested
CHUNK = 256 << 10  # bytes of a write where there is more to write than that
HEARTBEAT_S = 10
GOODBYE_TIMEOUT = 1.0  # s that the broker gets to agree to an end
TLS_SCHEMES = frozenset({"amqps", "ssl"})
SCHEMES = frozenset({"amqp", "amqps", "pyamqp", "tcp", "ssl"})


@dataclass(frozen=True)
class Hooks:
    """What a connection tells; all in the loop's thread, none may raise."""

    on_events: Callable[[list[Event]], None]
    on_lost: Callable[[str, Closed | None], None]
    on_congested: Callable[[bool], None]


class Connection(asyncio.BufferedProtocol):
    """Made by ``open()``."""

    def __init__(self, session: Session, hooks: Hooks) -> None:
        self._session = session
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[Opened] = self._loop.create_future()
        self._calls: deque[tuple[int, asyncio.Future[tuple[Any, ...]]]] = deque()
        self._gone = self._loop.create_future()
        self._beat: asyncio.TimerHandle | None = None
        self._beat_every = 0.0
        self._heard_at = self._wrote_at = self._loop.time()
        self._is_reading = True
        self._is_over = False
        self._backlog: deque[memoryview] = deque()
        self._is_paused = False  # the transport has enough
        self.frame_max = 0
        self.server: Table = {}

    @classmethod
    async def open(
        cls, endpoint: Endpoint, hooks: Hooks, *, about: Table, timeout: float, frame_max: int
    ) -> Connection:
        """Connect and log in within ``timeout`` seconds; raises ConnectionFailed.

        ``frame_max`` (bytes) is the most that we agree to.
        """
        heartbeat = endpoint.options.heartbeat
        seconds = HEARTBEAT_S if heartbeat is None else -(-heartbeat // 1000)
        session = Session(_login(endpoint), heartbeat=seconds, frame_max=frame_max, about=about)
        connection = cls(session, hooks)
        try:
            async with _Deadline(timeout):
                await connection._connect(endpoint)
                opened = await connection._opened
        except TimeoutError as error:
            connection._abort()
            raise ConnectionFailed(f"{endpoint}: no answer within {timeout:g} s") from error
        except (OSError, ValueError) as error:
            connection._abort()
            raise ConnectionFailed(f"{endpoint}: {_cause(error)}") from error
        except BaseException:
            connection._abort()
            raise
        connection._start(opened)
        return connection

    async def call(self, frame: bytes, answer: int) -> tuple[Any, ...]:
        """Send a method and wait for its answer; raises ConnectionFailed when none will come."""
        future: asyncio.Future[tuple[Any, ...]] = self._loop.create_future()
        if self._is_over:
            raise ConnectionFailed("the connection is closed")
        self._calls.append((answer, future))
        self.write(frame)
        return await future

    def write(self, data: bytes) -> None:
        """Send; what is sent to a connection that is over is for nobody."""
        if self._transport is not None and not self._is_over:
            self._wrote_at = self._loop.time()
            self._transport.write(data)

    def send(self, pieces: list[bytes]) -> None:
        """Send pieces in order, as one write where they are small.

        What the kernel does not take waits here as it is, without a copy.
        """
        if not self._backlog and sum(map(len, pieces)) <= WRITE_SIZE:
            self.write(b"".join(pieces))
            return
        for piece in pieces:
            view = memoryview(piece)
            self._backlog += [view[at : at + CHUNK] for at in range(0, len(view), CHUNK)]
        self._flush()

    def _flush(self) -> None:
        while self._backlog and not self._is_paused and not self._is_over:
            chunk = []
            size = 0
            while self._backlog and size < CHUNK:
                size += len(self._backlog[0])
                chunk.append(self._backlog.popleft())
            self.write(b"".join(chunk))

    def read(self, is_wanted: bool) -> None:
        """Whether to read; what the kernel holds already stays there."""
        if self._transport is None or self._is_over or is_wanted == self._is_reading:
            return
        self._is_reading = is_wanted
        if is_wanted:
            self._heard_at = self._loop.time()
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    async def close(self) -> None:
        """End in order, or at once when the broker does not agree; returns when it is gone."""
        if self._transport is None or self._is_over or self._backlog:
            self._abort()
            return
        self.read(True)
        self._transport.write(self._session.close())
        self._is_over = True
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._gone), GOODBYE_TIMEOUT)
        finally:
            self._abort()

    def drop(self) -> None:
        """End at once; nothing is told."""
        self._abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=WRITE_SIZE)
        transport.write(self._session.begin())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = self._loop.time()
        try:
            events = self._session.feed(self._buffer[:nbytes])
            if answer := self._session.take():
                self.write(answer)
            if events and not self._is_over:
                self._dispatch(events)
        except WireError as error:
            self._lose(str(error), None)
        if self._session.is_closed and not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._is_paused = True
        self._hooks.on_congested(True)

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()
        if not self._is_paused:
            self._hooks.on_congested(False)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        self._lose("the connection was closed" if exc is None else _cause(exc), None)

    # Its parts

    async def _connect(self, endpoint: Endpoint) -> None:
        secure = endpoint.scheme in TLS_SCHEMES
        await self._loop.create_connection(
            lambda: self,
            endpoint.host,
            endpoint.port or (5671 if secure else 5672),
            ssl=_tls_context(endpoint) if secure else None,
            server_hostname=(endpoint.options.server_hostname or endpoint.host) if secure else None,
        )

    def _start(self, opened: Opened) -> None:
        self.frame_max, self.server = opened.frame_max, opened.server
        self._beat_every = opened.heartbeat / 2
        if self._beat_every:
            self._beat = self._loop.call_later(self._beat_every, self._on_beat)

    def _on_beat(self) -> None:
        now = self._loop.time()
        silence = now - self._heard_at
        if self._is_reading and silence > 4 * self._beat_every:
            self._lose(f"silent for {silence:.0f} s", None)
            return
        # What waits to be written may end amid a frame, and is a sign of life itself.
        if now - self._wrote_at >= self._beat_every and not self._backlog:
            self.write(HEARTBEAT)
        self._beat = self._loop.call_later(self._beat_every, self._on_beat)

    def _dispatch(self, events: list[SessionEvent]) -> None:
        """Answers go to who asked; the rest is told in one piece."""
        rest: list[Event] = []
        closed: Closed | None = None
        for event in events:
            if isinstance(event, Opened):
                self._opened.set_result(event)
            elif isinstance(event, Closed):
                closed = event
            elif isinstance(event, Told) and self._calls and self._calls[0][0] == event.method:
                self._answer(event)
            else:
                rest.append(event)
        if rest:
            self._hooks.on_events(rest)
        if closed is not None:
            self._lose(str(closed), closed)

    def _answer(self, told: Told) -> None:
        _, future = self._calls.popleft()
        if not future.done():
            future.set_result(told.arguments)

    def _lose(self, reason: str, closed: Closed | None) -> None:
        """The end that nobody wanted."""
        if self._is_over:
            return
        was_open = self._opened.done()
        error = ConnectionFailed(reason, closed)
        futures: list[asyncio.Future[Any]] = [self._opened, *(call[1] for call in self._calls)]
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whether anybody waits or not
        self._abort()
        if was_open:
            self._hooks.on_lost(reason, closed)

    def _abort(self) -> None:
        self._is_over = True
        self._backlog.clear()
        if self._beat is not None:
            self._beat.cancel()
        if self._transport is not None:
            self._transport.abort()


class _Deadline:
    """``asyncio.timeout()``, which Python 3.10 has not."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_over = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(self._seconds, self._end, task)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handle.cancel()
        if self._is_over and kind is asyncio.CancelledError:
            raise TimeoutError

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._is_over = True
        task.cancel()


def _login(endpoint: Endpoint) -> Login:
    vhost = unquote(endpoint.path.removeprefix("/"))
    mechanism = endpoint.query.get("auth_mechanism", "PLAIN").upper()
    return Login(
        endpoint.username or "guest",
        (endpoint.password or "") if endpoint.username else "guest",
        vhost if vhost.strip("/") else "/",
        mechanism,
    )


def _tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    options = endpoint.options
    context = ssl.create_default_context(cafile=options.cafile)
    if options.certfile is not None:
        context.load_cert_chain(options.certfile, options.keyfile)
    if options.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {error.verify_message}"
    return redact(str(error) or type(error).__name__)
