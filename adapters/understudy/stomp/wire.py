"""A socket on which nobody who writes ever waits; who reads waits in poll, where he can be woken.

Rules
* The socket is non-blocking. What does not fit into its buffer is kept, in order, and sent by the
  reading thread as soon as there is room. So no writer is ever stuck, a frame is never cut in half
  by a caller that gives up, and a heartbeat never waits behind a stuck sender.
* One lock around every read and write, TLS or not, held only for moments: OpenSSL wants it, and so
  a descriptor is never closed under somebody who uses it. Only waiting is done without: when the
  socket is closed meanwhile the wait ends, and the next read tells.
* `sever` shuts the socket down, from any thread. The thread that reads closes as it leaves;
  a wire that nobody reads is closed by its owner.
* Every failure is `WireBroken`. What a signal handler raises passes through, and the wire may be
  cut within a frame then: the caller severs it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque

from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.interruptions import is_of_signal_handler
from understudy.failover.polling import KeptPoll, Wakeup, is_at_end, unread_bytes

__all__ = ["INTERRUPTED", "Wire", "WireBroken", "read_until", "said_by_system"]

READ_SIZE = 65536  # bytes, many frames at once; for more the system maps memory anew, in 10 µs
INTERRUPTED = "the call that used it was interrupted"


class WireBroken(Exception):
    """The connection is over. ``orderly``: the peer closed it (FIN) and did not reset it."""

    def __init__(self, reason: str, orderly: bool = False) -> None:
        super().__init__(reason)
        self.orderly = orderly


class Wire:
    def __init__(self) -> None:
        self.severed: str | None = None  # the reason
        self.last_sent = self.last_received = time.monotonic()
        self.waiting_bytes = 0  # given to `send` and not yet to the kernel
        self._sock: socket.socket | None = None
        self._lock = threading.RLock()
        self._waiting: deque[bytes | memoryview] = deque()
        self._wakeup = Wakeup()
        self._poll = KeptPoll()  # a caller's, see `poll`
        self._wants_room = False  # a TLS read has to write first
        self._write_failed: str | None = None  # what has come before that can still be read

    # --- connecting -----------------------------------------------------------------------------

    def connect(
        self,
        address: tuple[str, int],
        deadline: Deadline,
        tls: tuple[ssl.SSLContext, str] | None = None,
        source: tuple[str, int] | None = None,
    ) -> None:
        """TCP, and TLS with the context for that name; OSError, or DeadlinePassed."""
        raw = self._connect_tcp(address, deadline, source)
        try:
            raw.setblocking(False)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                context, name = tls
                raw = context.wrap_socket(raw, server_hostname=name, do_handshake_on_connect=False)
            self._take(raw)
            if isinstance(raw, ssl.SSLSocket):
                self._shake_hands(raw, deadline)
        except BaseException:
            self.close()
            raw.close()
            raise
        self.last_sent = self.last_received = time.monotonic()

    def _connect_tcp(
        self, address: tuple[str, int], deadline: Deadline, source: tuple[str, int] | None
    ) -> socket.socket:
        """Each address of the host in turn, all within the deadline."""
        failure: OSError | None = None
        host, port = address
        for _, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            deadline.check()
            try:
                return socket.create_connection(
                    (str(place[0]), int(place[1])), deadline.timeout(), source
                )
            except OSError as exc:
                failure = exc
        raise failure or OSError(f"{host} has no address")

    def _take(self, sock: socket.socket) -> None:
        with self._lock:
            self._sock = sock
            if self.severed is not None:
                raise WireBroken(self.severed)

    def _shake_hands(self, sock: ssl.SSLSocket, deadline: Deadline) -> None:
        while True:
            deadline.check()
            writing = False
            try:
                with self._lock:
                    return sock.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLWantWriteError:
                writing = True
            self._wakeup.wait(sock, deadline, reading=not writing, writing=writing)
            if self.severed is not None:
                raise WireBroken(self.severed)

    def peer_certificate(self) -> object:
        """As `ssl.SSLSocket.getpeercert` gives it."""
        assert isinstance(self._sock, ssl.SSLSocket)
        return self._sock.getpeercert()

    # --- writing --------------------------------------------------------------------------------

    def send(self, *pieces: bytes | memoryview) -> None:
        """Hand all of it to the network, in order and whole; never waits."""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        with self._lock:
            if self.severed is not None or self._sock is None:
                raise WireBroken(self.severed or "closed")
            if self._write_failed is not None:
                raise WireBroken(self._write_failed)
            try:
                was_idle = not self._waiting
                self._waiting.append(data)
                self.waiting_bytes += len(data)
                if was_idle:
                    self._send_waiting()
                    if self._waiting:
                        self._wakeup.set()  # the reading thread sends the rest
            except WireBroken:
                raise
            except BaseException:  # of a signal handler; nobody would send what waits now
                self.sever(INTERRUPTED)
                raise

    def _send_waiting(self) -> None:
        """Send what the kernel takes now; the lock is held."""
        sock, waiting = self._sock, self._waiting  # in a child of a signal handler there are others
        assert sock is not None
        try:
            while waiting:
                piece = waiting[0]
                sent = sock.send(piece)
                self.waiting_bytes -= sent
                self.last_sent = time.monotonic()
                if sent < len(piece):
                    waiting[0] = memoryview(piece)[sent:]
                    return
                waiting.popleft()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, InterruptedError):
            return
        except OSError as exc:
            if is_of_signal_handler(exc):
                raise
            self._write_failed = self.severed or said_by_system(exc)
            self._wakeup.set()
            raise WireBroken(self._write_failed) from exc

    # --- reading: one at a time -------------------------------------------------------------------

    def receive(self) -> bytes:
        """What has come, without waiting; nothing when nothing has."""
        with self._lock:
            if self.severed is not None or self._sock is None:
                raise WireBroken(self.severed or "closed")
            self._wants_room = False
            try:
                data = self._sock.recv(READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError, InterruptedError):
                if self._write_failed is not None:
                    raise WireBroken(self._write_failed) from None
                return b""
            except ssl.SSLWantWriteError:
                self._wants_room = True
                return b""
            except OSError as exc:
                if is_of_signal_handler(exc):
                    raise
                orderly = isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError)
                reason = self.severed or said_by_system(exc)
                raise WireBroken(reason, orderly) from exc
        if not data:
            raise WireBroken(self.severed or "the broker closed the connection", orderly=True)
        self.last_received = time.monotonic()
        return data

    def wait(self, deadline: Deadline, *, reading: bool = True) -> None:
        """Until something has come (if ``reading``), somebody calls `wake`, or the deadline.

        Meanwhile it sends what is still to be sent.
        """
        sock = self._sock
        if reading and isinstance(sock, ssl.SSLSocket):
            with self._lock:
                if self.severed is None and sock.pending():
                    return
        writing = bool(self._waiting) or self._wants_room
        if self.severed is None and sock is not None:
            self._wakeup.wait(sock, deadline, reading=reading, writing=writing)
        if writing:
            with self._lock:
                if self.severed is None and self._write_failed is None and self._sock is not None:
                    self._send_waiting()

    def wake(self) -> None:
        """End `wait` in the reading thread."""
        self._wakeup.set()

    @property
    def can_poll(self) -> bool:
        """Whether there is a `poll` here; Windows has none."""
        return hasattr(select, "poll")

    def poll(self, seconds: float) -> bool:
        """For one caller, who reads in the place of the reading thread: wait until something has
        come, at most so long. False when there is something to do that only that thread can.
        """
        with self._lock:
            sock = self._sock
            if self.severed is not None or sock is None or self._wants_room:
                return False
            if isinstance(sock, ssl.SSLSocket) and sock.pending():
                return True
            place = sock.fileno(), select.POLLIN
        self._poll.wait((place,), seconds)
        return True

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is at work with it: it is in a signal handler."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    # --- state ----------------------------------------------------------------------------------

    def is_at_end(self) -> bool:
        """Whether it is severed, or the peer has closed it with nothing left to read."""
        with self._lock:
            if self.severed is not None or self._sock is None:
                return True
            try:
                return is_at_end(self._sock)
            except (OSError, ValueError):
                return True

    def unread(self) -> int:
        """Bytes that have come and were not read, as far as the kernel knows."""
        with self._lock:
            if self.severed is not None or self._sock is None:
                return 0
            try:
                return unread_bytes(self._sock)
            except (OSError, ValueError):
                return 0

    # --- the end --------------------------------------------------------------------------------

    def sever(self, reason: str) -> None:
        """Break it now: the thread that reads wakes and finds it broken."""
        with self._lock:
            if self.severed is None:
                self.severed = reason
            if self._sock is not None:
                with contextlib.suppress(OSError):  # not SSLSocket's, which changes the TLS object
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            self._wakeup.set()

    def close(self) -> None:
        """Close the descriptors; for the thread that reads, or when there is none."""
        with self._lock:
            if self.severed is None:
                self.severed = "closed"
            sock, self._sock = self._sock, None
            self._waiting = deque()
            self.waiting_bytes = 0
            if sock is not None:
                with contextlib.suppress(OSError):
                    socket.socket.close(sock)
            self._wakeup.close()

    def abandon(self) -> None:
        """In a forked child: close what was inherited, no byte written, no shutdown."""
        self._lock = threading.RLock()  # the other's owner is a thread that is no more
        self.severed = "inherited from the parent process"
        self.close()


def said_by_system(exc: OSError) -> str:
    """What the system or OpenSSL says, without the name of a class."""
    return exc.strerror or str(exc) or type(exc).__name__


def read_until(wire: Wire, deadline: Deadline) -> bytes:
    """The next bytes; DeadlinePassed when none come in time."""
    while True:
        data = wire.receive()
        if data:
            return data
        if deadline.remaining() <= 0:
            raise DeadlinePassed
        wire.wait(deadline)
