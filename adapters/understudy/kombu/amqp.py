"""py-amqp's connection and channels, with bounds that py-amqp itself does not have.

Rules
* A connection that was severed stays dead: nothing is read from or written to it any more, every
  operation raises a recoverable connection error, and closing it sends nothing.
* Frames are written under a lock of ours that the monitor only tries: a heartbeat never waits
  behind a sender who is stuck, and a stuck sender is freed by severing.
* A peer is dead when for two heartbeats neither a frame was read nor the kernel's receive buffer
  has grown. So a busy application is not taken for a dead peer, and reads stay with one thread.
* A read or write that something else than the peer ends (a signal handler, a soft time limit) may
  have ended within a frame: the connection is severed, through no fault of its endpoint.
* A wait for a reply is bounded when the owner says so (`patience`): while a worker shuts down, or
  when the URI sets ``timeout``. What is still unanswered then makes the connection useless (a
  late answer would be taken for another's), so it is severed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp
from amqp.exceptions import RecoverableConnectionError
from amqp.method_framing import frame_writer
from kombu.transport import pyamqp

from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.interruptions import is_of_signal_handler, passing_over
from understudy.failover.monitor import monitor
from understudy.failover.polling import is_at_end, is_readable, is_writable, unread_bytes
from understudy.kombu.bounded_channel import BoundedChannel
from understudy.kombu.waiting import Bound, bounded_wait
from understudy.kombu.wire import (
    CLOSED,
    MALFORMED,
    WIRE_ERRORS,
    Outgoing,
    closed_by_another,
    malformed,
    refuse_to_write,
)

__all__ = [
    "INTERRUPTED",
    "BoundedConnection",
]

INTERRUPTED = "the call that used it was interrupted"

SLICE = 0.05  # s between two looks whether another thread's reading has brought what one waits for
#: connection closes that say nothing about a message: forced (320), resources (506)
NOT_THE_MESSAGE = (RecoverableConnectionError, amqp.exceptions.ResourceError)

RECEIVE_BUFFER_FULL = 65536  # unread bytes above which a buffer that does not grow proves nothing


class BoundedConnection(pyamqp.Connection):
    """A py-amqp connection that can be severed from any thread and never waits for a dead peer."""

    Channel = BoundedChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        self.severed: str | None = None  # the reason
        self.broken: str | None = None  # what reading or writing met with
        self.callback_error: BaseException | None = None  # the last one of who gets what was read
        self.is_polled = False  # an event loop has to find the descriptor after a loss
        self.closed_by_peer: str | None = None  # what the broker said in connection.close
        self.patience: Callable[[], float | None] = lambda: None  # s a reply may take; None = ever
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()
        self.bound = Bound()
        self._last_sent = self._last_received = time.monotonic()
        self._seen_sent = self._seen_received = -1
        super().__init__(*args, frame_writer=self._locked_writer, **options)

    def _locked_writer(self, connection: Any, transport: Any) -> Callable[..., None]:
        self._outgoing = Outgoing(transport)
        write = frame_writer(connection, self._outgoing)
        lock = self._write_lock

        def locked(*frame: Any) -> None:
            if self.severed is not None:
                raise RecoverableConnectionError(self.severed)
            writes = self.writes
            try:
                with lock:
                    write(*frame)
            except BaseException as exc:
                if is_of_signal_handler(exc) or not isinstance(exc, OSError):
                    if self.writes != writes:
                        self.sever(INTERRUPTED)
                    raise
                if isinstance(exc, TimeoutError):
                    raise self._kernels_or_ours(exc) from exc.__cause__
                self.broken = f"{type(exc).__name__}: {exc}"
                raise
            finally:
                if self.severed is not None:
                    self._close_when_unused()

        return locked

    def connect(self, callback: Any = None) -> Any:
        """TCP, TLS and AMQP handshake within connect_timeout in all, also with a dripping peer."""
        forking.register(self)
        timeout = self.connect_timeout
        late = f"no handshake within {timeout:g} s"
        with monitor.alarm(timeout, lambda: self.sever(late)):
            try:
                return super().connect(callback)
            except Exception as exc:
                if self.severed != late:
                    raise
                raise TimeoutError(late) from exc

    @property
    def writes(self) -> int:
        """How many writes were begun."""
        return self._outgoing.writes

    def hold_writes(self) -> None:
        """Collect frames from now on; `send_held` hands them to the socket in one call."""
        self._outgoing.held = bytearray()

    def drop_held(self) -> None:
        self._outgoing.held = None

    def send_held(self) -> None:
        with self._write_lock:
            held, self._outgoing.held = self._outgoing.held, None
            if held:
                self._outgoing.write(held)

    # --- severing -------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self.severed is None and bool(super().connected)

    def sever(self, reason: str) -> None:
        """Shut the socket down: every thread that is blocked on it wakes with an error."""
        if self.severed is None:
            self.severed = reason
        sock = self._raw_socket()
        if sock is not None:
            with passing_over(OSError):
                # not SSLSocket.shutdown, which changes the TLS object under another thread's feet
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            self._close_when_unused()

    def _close_when_unused(self) -> None:
        """Close the descriptor, unless a thread is in it: then that thread does as it leaves."""
        sock = self._raw_socket()
        if sock is None or self.is_polled or not self._write_lock.acquire(blocking=False):
            return
        try:
            if self._read_lock.acquire(blocking=False):
                try:
                    sock.close()
                    self.frame_writer = refuse_to_write  # with it goes a buffer of 128 KB
                finally:
                    self._read_lock.release()
        finally:
            self._write_lock.release()

    def hold(self) -> None:
        """Nothing: a thread may be in it for as long as the broker is away."""

    def let_go(self) -> None:
        """Nothing."""

    def abandon(self) -> None:
        """In a forked child: close our copy of the descriptor; the parent's connection lives on."""
        self.severed = "inherited from the parent process"
        sock = self._raw_socket()
        if sock is not None:
            socket.socket.close(sock)

    def _raw_socket(self) -> socket.socket | None:
        transport = self._transport
        return None if transport is None else transport.sock

    def collect(self) -> None:
        if self.severed is None:
            self.severed = "connection closed"
        self.sever(self.severed)
        super().collect()
        self.frame_writer = refuse_to_write

    def reply_limit(self) -> float | None:
        """Seconds that this thread may wait for a reply now; None = as long as it takes."""
        bound, patience = self.bound.deadline, self.patience()
        limits = [] if bound is None else [bound.timeout()]
        return min((limit for limit in (*limits, patience) if limit is not None), default=None)

    @contextlib.contextmanager
    def reading(self, timeout: float | None = None) -> Iterator[None]:
        """Let no other thread read; TimeoutError if another one does for too long."""
        if not self._read_lock.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError
        try:
            yield
        finally:
            self._read_lock.release()

    def blocking_read(
        self, timeout: float | None = None, unless: Callable[[], bool] = lambda: False
    ) -> Any:
        """Read one frame; none when ``unless`` is true once nobody else reads any more."""
        if self.severed is not None or self._transport is None:
            raise RecoverableConnectionError(self.severed or "connection closed")
        deadline = Deadline(timeout)
        while not self._read_lock.acquire(timeout=min(deadline.remaining(), SLICE)):
            if unless():
                return True
            if deadline.remaining() <= 0:
                raise TimeoutError
        try:
            if unless():
                return True
            return self._take_in(self._read_frame(deadline.timeout()))
        finally:
            self._read_lock.release()
            if self.severed is not None:
                self._close_when_unused()

    def _take_in(self, frame: Any) -> Any:
        try:
            return self.on_inbound_frame(frame)
        except BaseException as exc:
            if exc is self.callback_error:
                raise
            if is_of_signal_handler(exc) or not isinstance(exc, Exception):
                self.sever(INTERRUPTED)  # nobody takes in the rest of the frame
                raise
            is_of_peer = isinstance(exc, (*WIRE_ERRORS, *MALFORMED))
            if not is_of_peer or isinstance(exc, (amqp.exceptions.ChannelError, TimeoutError)):
                raise
            self.broken = f"{type(exc).__name__}: {exc}"
            if isinstance(exc, WIRE_ERRORS):
                raise
            raise malformed(exc) from exc

    @property
    def is_broken(self) -> bool:
        """Whether the connection itself has failed, not just a call that used it."""
        return bool(self.severed or self.broken or self.closed_by_peer)

    def explains(self, exc: Exception) -> bool:
        """Whether this is what one meets on a broken connection, and no error of a caller's."""
        is_over = self.severed is not None
        meets = isinstance(exc, WIRE_ERRORS) or (is_over and isinstance(exc, CLOSED))
        return meets and not is_of_signal_handler(exc)

    def _read_frame(self, timeout: float | None) -> Any:
        transport = self.transport
        try:
            with transport.having_timeout(timeout):
                return transport.read_frame()
        except BaseException as exc:
            ours = (*WIRE_ERRORS, *CLOSED)
            if is_of_signal_handler(exc) or not isinstance(exc, ours):
                self.sever(INTERRUPTED)
                raise
            if isinstance(exc, TimeoutError):
                raise self._kernels_or_ours(exc) from exc.__cause__
            self.broken = f"{type(exc).__name__}: {exc}"
            if isinstance(exc, WIRE_ERRORS):
                raise
            raise closed_by_another(exc) from exc

    def _kernels_or_ours(self, exc: TimeoutError) -> OSError:
        """Lets TimeoutError mean that a wait of ours is over, and never the kernel's ETIMEDOUT.

        TCP_USER_TIMEOUT is set, so a network that swallows packets ends in that error.
        """
        if exc.errno is None:
            return exc
        self.broken = str(exc)
        return ConnectionAbortedError(exc.errno, exc.strerror)

    def was_closed_over_a_message(self, exc: BaseException) -> bool:
        """Whether the broker itself closed the connection, for a reason that a message may be."""
        return self.closed_by_peer is not None and not isinstance(exc, NOT_THE_MESSAGE)

    def drain_events(
        self, timeout: float | None = None, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """py-amqp's own, where each heartbeat of the broker's would begin the timeout anew.

        ``unless``: true when another thread's reading has brought what the caller waits for.
        """
        bound = self.bound.deadline
        deadline = Deadline(timeout) if bound is None else bound
        while bound is None or bound.remaining() > 0:
            try:
                if self.blocking_read(deadline.timeout(), unless):
                    return
            except TimeoutError as exc:  # a deadline may ask to be looked at again before its end
                if deadline.remaining() <= 0 or is_of_signal_handler(exc):
                    raise
        raise TimeoutError

    def wait(
        self, method: Any, callback: Any = None, timeout: Any = None, returns_tuple: bool = False
    ) -> Any:
        return bounded_wait(super().wait, self, method, callback, timeout, returns_tuple)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.closed_by_peer = f"{reply_code} {reply_text}"
        super()._on_close(reply_code, reply_text, class_id, method_id)

    def is_at_end(self) -> bool:
        """Whether the peer has closed its side; a look that reads nothing and never blocks."""
        sock = self._raw_socket()
        if self.severed is not None or sock is None:
            return True
        try:
            return is_at_end(sock)
        except (OSError, ValueError) as exc:
            if is_of_signal_handler(exc):
                raise
            return True

    def is_readable(self) -> bool:
        """Whether a read would not block."""
        sock = self._raw_socket()
        if self.severed is not None or sock is None:
            return False
        pending = getattr(sock, "pending", None)  # TLS: bytes that poll does not see any more
        return bool(pending and pending()) or is_readable(sock)

    # --- heartbeats -----------------------------------------------------------------------------

    def beat(self, now: float) -> str | None:
        """Send a heartbeat if one is due; the reason when the peer is dead, else None."""
        sock = self._raw_socket()
        if self.severed is not None or sock is None or not self._handshake_complete:
            return None
        try:
            unread = unread_bytes(sock)
        except (OSError, ValueError):
            return None  # just closed by its owner
        received = self.bytes_recv * 1_000_003 + unread  # changes with every sign of life
        if received != self._seen_received or unread > RECEIVE_BUFFER_FULL:
            self._seen_received, self._last_received = received, now
        if now - self._last_received > 2 * self.heartbeat:
            return f"no sign of life for {now - self._last_received:.1f} s (two heartbeats)"
        if not unread and self.is_at_end():
            return "the broker closed the connection"
        if self.bytes_sent != self._seen_sent:
            self._seen_sent, self._last_sent = self.bytes_sent, now
        elif now - self._last_sent >= self.heartbeat / 2:
            self._try_heartbeat(sock, now)
        return None

    def heartbeat_tick(self, rate: int = 2) -> None:
        """The monitor's business: asked late (a solo worker's long task), py-amqp gives up a peer
        whose heartbeats merely lie unread."""
        if self.severed is not None:
            raise RecoverableConnectionError(self.severed)

    def take_in_idle(self, now: float) -> None:
        """Read what lies there while the owner neither reads nor writes; for publishers only.

        Else an idle connection's buffer would fill with heartbeats, in a day or so, and the broker
        close it. Nothing is outstanding when nothing was written for half a heartbeat and nobody is
        reading; both locks are held, so that stays true.
        """
        if now - self._last_sent < self.heartbeat / 2 or not self.is_readable():
            return
        if not self._write_lock.acquire(blocking=False):
            return
        try:
            if self._read_lock.acquire(blocking=False):
                try:
                    while self.is_readable() and not self.is_at_end():
                        with contextlib.suppress(TimeoutError, amqp.exceptions.ChannelError):
                            self.blocking_read(0)
                finally:
                    self._read_lock.release()
        finally:
            self._write_lock.release()

    def _try_heartbeat(self, sock: socket.socket, now: float) -> None:
        if not self._write_lock.acquire(blocking=False):
            return  # somebody is writing, or stuck: the receiving side tells which
        try:
            if is_writable(sock):
                with contextlib.suppress(OSError, RecoverableConnectionError, AttributeError):
                    self.send_heartbeat()
                    self._seen_sent, self._last_sent = self.bytes_sent, now
        finally:
            self._write_lock.release()
