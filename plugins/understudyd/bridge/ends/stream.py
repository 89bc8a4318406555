"""What the connections of both protocols are made of: a socket over asyncio, its pace and its end.

Rules
* Reads are of up to `READ_SIZE` bytes; what one read brought is handled in one go.
* What the kernel does not take waits here as it is, without a copy, and is told as congestion.
* The end is told once, and never after it was asked for.
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
from collections.abc import Callable
from typing import Any

from understudy.core.endpoint import Endpoint
from understudy.core.redact import redact
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.wire.amqp import Closed

__all__ = ["Deadline", "Stream"]

READ_SIZE = 256 << 10  # bytes
WRITE_SIZE = 1 << 20  # bytes on our side, above which the target counts as congested
CHUNK = 256 << 10  # bytes of a write where there is more to write than that


class Stream(asyncio.BufferedProtocol):
    """One connection; a protocol is a subclass. It is used once."""

    BEAT: bytes
    """The heart-beat of the protocol."""

    def __init__(self, on_congested: Callable[[bool], None]) -> None:
        self._on_congested = on_congested
        self._loop = asyncio.get_running_loop()
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
    def _lose(self, reason: str, closed: Closed | None = None) -> None:
        """It ended, and nobody wanted that."""

    # What it can use

    async def _dial(
        self,
        endpoint: Endpoint,
        opened: asyncio.Future[Any],
        *,
        is_secure: bool,
        port: int,
        timeout: float,
    ) -> None:
        """Connect within ``timeout`` seconds, until ``opened`` is done; raises ConnectionFailed.

        ``port`` is the one that is meant when the URI names none.
        """
        name = endpoint.options.server_hostname or endpoint.host
        try:
            async with Deadline(timeout):
                await self._loop.create_connection(
                    lambda: self,
                    endpoint.host,
                    endpoint.port or port,
                    ssl=_tls_context(endpoint) if is_secure else None,
                    server_hostname=name if is_secure else None,
                )
                await opened
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

    # What its owner can do

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
    def is_over(self) -> bool:
        """Whether it ended, by whom ever."""
        return self._is_over

    def drop(self) -> None:
        """End at once; nothing is told."""
        self._is_over = True
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
        if not self._is_congested:
            self._is_congested = True
            self._on_congested(True)

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()
        if not self._is_paused:
            self._is_congested = False
            self._on_congested(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_gone()
        self._lose("the connection was closed" if exc is None else _cause(exc))

    def _is_gone(self) -> None:
        """The peer has said its last word."""
        if not self._gone.done():
            self._gone.set_result(None)


class Deadline:
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
    if isinstance(error, ConnectionRefusedError):  # asyncio says this in words of its own
        return "connection refused: nothing listens there"
    return redact(str(error) or type(error).__name__)
