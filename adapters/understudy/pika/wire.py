"""A link on a socket: what the supervisor hands out, and the monitor watches.

Rules
* The socket never blocks. Nobody waits but in `poll`, which touches nothing but the descriptors, so
  that it may run while other threads write.
* All else is done under ``guard``: the lock of whoever uses the wire, one of its own before that.
  `sever`, `is_alive` and `abandon` need no lock and never wait.
* A wire that cannot be written to any more is still read to its end: the broker's last words tell
  why (and which message was one too many).
* A signal handler may interrupt any of this and use the wire itself: what it writes waits until
  what is being written is. A read within a read, or a write that can't wait, severs the wire.
* The descriptor is closed by whoever uses the wire, once nobody polls it any more.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from understudy.core.endpoint import Endpoint
from understudy.failover.deadline import Deadline
from understudy.failover.interruptions import is_of_signal_handler
from understudy.failover.polling import Wakeup, is_at_end, is_readable, wait_usable
from understudy.pika.link import INTERRUPTED, Link
from understudy.pika.link_channel import LinkLost

__all__ = ["GOODBYE", "Wire"]

GOODBYE = 1.0  # s that a graceful close may take; a dead peer must not hold up the end of a process
READ_SIZE = 65536  # bytes; from 128 KiB on malloc maps memory anew for each read, which costs 10 us
READS = 16  # in one go, so that a fast broker does not keep the lock for ever
UNASKED = 8.0  # s; without a heartbeat a closed connection is still noticed within an eighth of it
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire(Link):
    def __init__(
        self, endpoint: Endpoint, sock: socket.socket, parameters: Any, heartbeat: int
    ) -> None:
        super().__init__(self._emit, parameters, heartbeat)
        self.endpoint = endpoint
        self.guard = threading.RLock()
        self.blocked_since: float | None = None  # monotonic; the broker takes no messages
        self.blocked_timeout = -1.0  # s; below 0 = for ever
        self.may_read: Callable[[], bool] = lambda: True  # asked where nobody waits for anything
        self.on_served: Callable[[], None] = lambda: None  # after the monitor has read
        self.is_polled = False
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._out = bytearray()
        self._failed: str | None = None  # why it can't be written to
        self._is_writing = self._is_serving = False
        self._last_read = self._last_write = time.monotonic()
        self._polled_for_room = False
        sock.setblocking(False)

    def __repr__(self) -> str:
        state = f" lost: {self.lost}" if self.lost else ""
        return f"<Wire {self.endpoint}{state}>"

    @property
    def heartbeat(self) -> float:
        """Seconds; the monitor looks eight times in that, without AMQP's heartbeat too."""
        return self.agreed_heartbeat or UNASKED

    @property
    def unwritten(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._out)

    def fileno(self) -> int:
        return self._sock.fileno()

    def has_decrypted(self) -> bool:
        """Whether there are bytes to `serve` that no poll of the descriptor shows."""
        return self._is_tls and self.lost is None and self._sock.pending() > 0  # type: ignore[attr-defined]

    @property
    def wants_room(self) -> bool:
        """Whether whoever polls it does not wait for room to write in, and should."""
        return bool(self._out) and not self._polled_for_room

    # --- under the guard ------------------------------------------------------------------------

    def _emit(self, data: bytes) -> None:
        if self._failed is not None:
            return
        if self._out or self._is_writing:
            self._out += data
            return
        self._is_writing = True
        try:
            sent = self._sock.send(data)
        except NOT_NOW:
            sent = 0
        except BaseException as exc:
            if not isinstance(exc, (OSError, ValueError)) or is_of_signal_handler(exc):
                self.interrupted()
                raise
            self._failed = _reason(exc)
            return
        finally:
            self._is_writing = False
        self._last_write = time.monotonic()
        if sent < len(data):
            self._out[:0] = memoryview(data)[sent:]

    def interrupted(self) -> None:
        """A signal handler raised, perhaps in the middle of a frame."""
        self.sever(INTERRUPTED)

    def serve(self) -> None:
        """Write what waits and read what has come, without waiting; `lost` tells how it went."""
        if self._is_serving:
            self.interrupted()
        if self.lost is not None:
            return
        self._is_serving = True
        try:
            if self._out and self._failed is None:
                self._write_more()
            for _ in range(READS):
                if not self._read():
                    break
            else:
                return
        except BaseException:
            self.interrupted()
            raise
        finally:
            self._is_serving = False
        if self._failed is not None and self.lost is None:
            self._lose(self._failed)

    def _write_more(self) -> None:
        if self._is_writing:  # how much of that is on its way can't be told in here
            self.interrupted()
            return
        try:
            sent = self._sock.send(self._out)
        except NOT_NOW:
            return
        except (OSError, ValueError) as exc:
            self._failed = _reason(exc)
            return
        del self._out[:sent]
        self._last_write = time.monotonic()

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            data = self._sock.recv(READ_SIZE)
        except NOT_NOW:
            return False
        except (OSError, ValueError) as exc:
            reason = _reason(exc)
            self._lose(self._failed or reason)
            return False
        if not data:
            self._lose("the broker closed the connection")
            return False
        self._last_read = time.monotonic()
        self.feed(data)
        if self.lost is not None:
            self._shut_down()
            return False
        return self._is_tls or len(data) == READ_SIZE

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            self.lost = LinkLost(reason)
        self._shut_down()

    # --- without it -----------------------------------------------------------------------------

    def poll(self, seconds: float, wakeup: Wakeup | None = None) -> None:
        """Wait until there is something to `serve`, or ``wakeup``, or the time is over.

        It may end before, after an hour. Only one thread at a time.
        """
        if self.has_decrypted():
            return
        self._polled_for_room = for_room = bool(self._out)
        if wakeup is not None:
            wakeup.wait(self._sock, Deadline(seconds), writing=for_room)
            return
        try:
            wait_usable(self._sock, seconds, writing=for_room)
        except (OSError, ValueError) as exc:  # closed meanwhile
            self._lose(_reason(exc))

    def sever(self, reason: str) -> None:
        """Break it now; whoever polls it wakes."""
        self._lose(reason)
        guard, taken = self.guard, list[bool]()
        try:
            taken.extend(map(guard.acquire, (False,)))  # in one call: a signal can't come between
            if taken[0]:
                self.close()
        finally:
            if any(taken):
                guard.release()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):
            # not SSLSocket.shutdown, which changes the TLS object under another thread's feet
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor, unless somebody polls it; he does it then. Under the guard."""
        if not self.is_polled:
            if self.lost is None:
                self.lost = LinkLost("closed")
            self._out.clear()
            socket.socket.close(self._sock)

    def discard(self) -> None:
        """Say goodbye without waiting for an answer."""
        with self.guard:
            if self.lost is None:
                self.say_goodbye(200, "no longer needed")
            self.close()

    def abandon(self) -> None:
        """In a forked child: close our copy of the descriptor, no byte written."""
        self.lost = LinkLost("inherited from the parent process")
        self.guard = threading.RLock()
        socket.socket.close(self._sock)

    def is_alive(self) -> bool:
        if self.lost is not None:
            return False
        try:
            return not is_at_end(self._sock)
        except (OSError, ValueError) as exc:
            _reason(exc)
            return False

    # --- the monitor's --------------------------------------------------------------------------

    def beat(self, now: float) -> str | None:
        """Serve it where nobody else does; the reason when the peer has to be taken for dead."""
        guard = self.guard
        if not guard.acquire(timeout=0.05):
            return None  # somebody is at work with it
        try:
            if guard is not self.guard or self.lost is not None:
                return None
            since, limit = self.blocked_since, self.blocked_timeout
            if since is not None and 0 <= limit < now - since:
                return f"blocked for more than blockedTimeout={limit * 1000:.0f} ms"
            if self.may_read():
                self.serve()
                self.on_served()
            elif is_readable(self._sock):
                self._last_read = now  # there is a sign of life that nobody has read yet
            if self.lost is not None:
                return str(self.lost)
            return self._keep_alive(now) if self.agreed_heartbeat else None
        finally:
            guard.release()

    def _keep_alive(self, now: float) -> str | None:
        silence = time.monotonic() - self._last_read
        if silence > 2 * self.agreed_heartbeat:
            return f"no sign of life for {silence:.1f} s (two heartbeats)"
        if now - self._last_write >= self.agreed_heartbeat / 2 and not self._out:
            self.send_heartbeat()
        return None


def _reason(exc: Exception) -> str:
    """Why a wire is lost; raises what is a signal handler's own."""
    if is_of_signal_handler(exc):
        raise exc
    return f"{type(exc).__name__}: {exc}"
