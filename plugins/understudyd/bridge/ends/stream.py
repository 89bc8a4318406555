"""What the connections of both protocols are made of: a socket over asyncio, its pace and its end.

Rules
* Reads are of up to `READ_SIZE` bytes; what one read brought is handled in one go.
* What the kernel does not take waits here as it is, without a copy, and is told as congestion.
* The end is told once, and never after it was asked for. Whoever waits for an answer then gets
  `ConnectionFailed`.
* What is asked after the login has `SET_UP_TIME`.
* A peer that is silent for two heart-beats is lost. While we do not read, its silence says nothing.
* TLS verifies certificate and name unless the URI says ``verify=false``.
* No text here holds a password: what is shown of an endpoint is its redacted form.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.redact import redact
from understudy.failover.tls import tls_context
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.wire.amqp import Closed

__all__ = ["Stream", "goodbye", "within"]

READ_SIZE = 256 << 10  # bytes
WRITE_SIZE = 1 << 20  # bytes on our side, above which the target counts as congested
CHUNK = 256 << 10  # bytes of a write where there is more to write than that
SET_UP_TIME = 30.0  # s; a broker that is busy makes queues slowly

T = TypeVar("T")


class Stream(asyncio.BufferedProtocol):
    """One connection; a protocol is a subclass. It is used once."""

    BEAT: bytes
    """The heart-beat of the protocol."""

    def __init__(
        self,
        endpoint: Endpoint,
        on_lost: Callable[[str, Closed | None], None],
        on_congested: Callable[[bool], None],
    ) -> None:
        self.endpoint = endpoint
        self._on_lost = on_lost
        self._on_congested = on_congested
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[Any] = self._loop.create_future()
        self._failure: ConnectionFailed | None = None
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._transport: asyncio.Transport | None = None
        self._gone = self._loop.create_future()
        self._beat: asyncio.TimerHandle | None = None
        self._heard_at = self._wrote_at = self._loop.time()
        self._is_reading = True
        self._is_over = False
        self._backlog: deque[memoryview] = deque()
        self._is_paused = False  # the transport has enough
        self._is_congested = False  # that was told

    # What a protocol gives

    @abstractmethod
    def _begin(self) -> bytes:
        """The first bytes to send."""

    @abstractmethod
    def _feed(self, data: memoryview) -> None:
        """What one read brought; the memory is used again."""

    @abstractmethod
    def _unanswered(self) -> Iterable[asyncio.Future[Any]]:
        """What somebody waits for after the login."""

    # What it can use

    async def _dial(self, *, is_secure: bool, port: int, timeout: float) -> None:
        """Connect within ``timeout`` seconds, until ``_opened`` is done; raises ConnectionFailed.

        ``port`` is the one that is meant when the URI names none.
        """
        endpoint = self.endpoint
        name = endpoint.options.server_hostname or endpoint.host

        async def connect() -> None:
            await self._loop.create_connection(
                lambda: self,
                endpoint.host,
                endpoint.port or port,
                ssl=tls_context(endpoint) if is_secure else None,
                server_hostname=name if is_secure else None,
            )
            await self._opened

        try:
            await within(timeout, connect())
        except TimeoutError as error:
            self.drop()
            raise ConnectionFailed(f"{endpoint}: no answer within {timeout:g} s") from error
        except (OSError, ValueError) as error:
            self.drop()
            raise ConnectionFailed(f"{endpoint}: {_cause(error)}") from error
        except BaseException:
            self.drop()
            raise

    def _start_beating(self, every: float, silence: float) -> None:
        """Seconds between two of ours, and how long the peer may be silent; 0: never, for ever."""
        if step := min(filter(None, (every, silence / 4)), default=0.0):
            self._beat = self._loop.call_later(step, self._on_beat, step, every, silence)

    def _on_beat(self, step: float, every: float, silence: float) -> None:
        now = self._loop.time()
        if silence and self._is_reading and now - self._heard_at > silence:
            self._lose(f"silent for {now - self._heard_at:.0f} s")
            return
        # What waits to be written may end amid a frame, and is a sign of life itself.
        if every and now - self._wrote_at >= every and not self._backlog:
            self.write(self.BEAT)
        self._beat = self._loop.call_later(step, self._on_beat, step, every, silence)

    def _lose(self, reason: str, closed: Closed | None = None) -> None:
        """It ended, and nobody wanted that."""
        if self._is_over:
            return
        was_open = self._opened.done() and not self._opened.cancelled()
        self._failure = ConnectionFailed(reason, closed)
        self.drop()
        if was_open:
            self._on_lost(reason, closed)

    # What its owner can do

    async def set_up(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what is to be done after the login, and end the connection where that fails.

        Raises ConnectionFailed, also where the connection ended meanwhile.
        """
        try:
            done = await within(SET_UP_TIME, work)
            if self._is_over:
                raise self.failure
        except TimeoutError as error:
            self.drop()
            raise ConnectionFailed(
                f"{self.endpoint}: no answer within {SET_UP_TIME:g} s after the login"
            ) from error
        except BaseException:
            self.drop()
            raise
        return done

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

    @property
    def failure(self) -> ConnectionFailed:
        """Why it ended."""
        return self._failure or ConnectionFailed(f"{self.endpoint}: the connection is closed")

    def fail(self, reason: str) -> None:
        """End at once, and tell that as a loss: it can't be used any more."""
        self._lose(reason)

    def drop(self) -> None:
        """End at once; nothing is told."""
        self._is_over = True
        for future in (self._opened, *self._unanswered()):
            if not future.done():
                future.set_exception(self.failure)
                future.exception()  # whether anybody waits or not
        self._backlog.clear()
        if self._beat is not None:
            self._beat.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _say_goodbye(self, data: bytes, timeout: float) -> None:
        """Send the last word and wait until ``_gone``; at once when the broker does not read."""
        if self._transport is None or self._is_over or self._backlog:
            self.drop()
            return
        self.read(True)
        self._transport.write(data)
        self._is_over = True
        try:
            await asyncio.wait([self._gone], timeout=timeout)
        finally:
            self.drop()

    @abstractmethod
    async def close(self) -> None:
        """End in order, or at once when the broker does not agree; returns when it is gone."""

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=WRITE_SIZE)
        transport.write(self._begin())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = self._loop.time()
        self._feed(self._buffer[:nbytes])

    def pause_writing(self) -> None:
        self._is_paused = True
        self._tell_congestion(True)

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()
        if not self._is_paused:
            self._tell_congestion(False)

    def _tell_congestion(self, is_congested: bool) -> None:
        if is_congested != self._is_congested and not self._is_over:
            self._is_congested = is_congested
            self._on_congested(is_congested)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_gone()
        self._lose("the connection was closed" if exc is None else _cause(exc))

    def _is_gone(self) -> None:
        """The peer has said its last word."""
        if not self._gone.done():
            self._gone.set_result(None)


async def goodbye(connection: Stream | None) -> None:
    """Of an end that has let go of its connection, where it had one."""
    if connection is not None:
        await connection.close()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns; raises TimeoutError when it takes longer, and has ended then.

    Unlike ``asyncio.timeout()`` (Python 3.11) and ``asyncio.wait_for()`` it never takes a cancel
    that comes in the same turn for its own, or for nothing.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        is_late = not task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # whether anybody is left to hear it or not
    if is_late:
        raise TimeoutError
    return task.result()


def _cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):  # asyncio says this in words of its own
        return "connection refused: nothing listens there"
    return redact(str(error) or type(error).__name__)
