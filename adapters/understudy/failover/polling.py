"""Looking at sockets without touching what is in them.

poll() where there is one, because select() fails for descriptors above 1023, which servers reach.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterable

from understudy.failover.deadline import Deadline
from understudy.failover.interruptions import is_of_signal_handler, passing_over

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

__all__ = [
    "KeptPoll",
    "Wakeup",
    "is_at_end",
    "is_readable",
    "is_writable",
    "unread_bytes",
    "wait_readable",
    "wait_usable",
]

LONGEST = 3600.0  # s; the system's poll counts in ms, with 31 bits


def unread_bytes(sock: socket.socket) -> int:
    """Bytes that lie in the kernel's receive buffer; 0 when it can't be told."""
    if fcntl is None:
        return 0
    answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(answer, "little")


def is_readable(sock: socket.socket) -> bool:
    """Whether a read would not block: there are bytes, or the end."""
    return wait_readable([sock], 0.0)


def is_at_end(sock: socket.socket) -> bool:
    """Whether the peer has sent its end; False while there are bytes before that, or nothing.

    Raises OSError for a socket that is broken, ValueError for one that was closed.
    """
    if not is_readable(sock):
        return False
    # gevent's own recv would wait, whatever the flags, when another greenlet has read meanwhile
    bare = getattr(sock, "_sock", None)
    look = 1, socket.MSG_PEEK | socket.MSG_DONTWAIT
    try:
        return (socket.socket.recv(sock, *look) if bare is None else bare.recv(*look)) == b""
    except BlockingIOError:
        return False


def is_writable(sock: socket.socket) -> bool:
    """Whether some bytes would fit into the send buffer."""
    if not hasattr(select, "poll"):
        return bool(select.select([], [sock], [], 0)[1])
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def wait_usable(sock: socket.socket, timeout: float, *, writing: bool = False) -> None:
    """Wait at most ``timeout`` seconds until it can be read, or written if asked; an hour at most.

    Raises ValueError or OSError for a socket that another thread has closed.
    """
    timeout = min(timeout, LONGEST)
    if not hasattr(select, "poll"):
        select.select([sock], [sock] if writing else [], [], timeout)
        return
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLOUT * writing)
    poll.poll(_ms(timeout))


def wait_readable(sockets: Iterable[socket.socket], timeout: float | None) -> bool:
    """Wait at most ``timeout`` seconds (None = for ever) until one is readable; whether one is.

    Raises ValueError or OSError for a socket that another thread has closed.
    """
    if not hasattr(select, "poll"):
        return bool(select.select(list(sockets), [], [], timeout)[0])
    poll = select.poll()
    for sock in sockets:
        poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(None if timeout is None else _ms(timeout)))


def _ms(seconds: float) -> int:
    """Not less, or a wait for something that is due in a moment would be a busy one."""
    return int(seconds * 1000 + 0.999)


class KeptPoll:
    """A poll that is kept for the next wait: making one costs more than a wait that ends at once.

    A wait within a signal handler, or in another thread, that comes within a wait makes its own.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[tuple[int, int], ...], select.poll] | None = None

    def wait(self, places: tuple[tuple[int, int], ...], seconds: float) -> None:
        """Until one of these (descriptor, events) is ready, at most so long.

        Raises what a signal handler raises, and ValueError for a descriptor that is none.
        """
        kept, self._kept = self._kept, None
        if kept is None or kept[0] != places:
            poll = select.poll()
            for descriptor, events in places:
                poll.register(descriptor, events)
            kept = places, poll
        kept[1].poll(_ms(seconds))
        self._kept = kept


class Wakeup:
    """Ends another thread's wait for a socket; a socket pair, which poll understands everywhere."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._is_set = False
        self._poll = KeptPoll()

    def set(self) -> None:
        with passing_over(OSError):  # full, or closed
            self._writer.send(b"!")
        self._is_set = True  # after the byte: else one could lie there with nobody to take it away

    def wait(
        self,
        other: socket.socket | None,
        deadline: Deadline,
        *,
        reading: bool = True,
        writing: bool = False,
    ) -> None:
        """Until set, ``other`` can be read (or written, as asked), or the deadline.

        It may end before, after an hour, and when ``other`` was closed: reading that will tell.
        """
        seconds = min(deadline.remaining(), LONGEST)
        try:
            if hasattr(select, "poll"):
                mask = select.POLLIN * reading | select.POLLOUT * writing
                ours = self._reader.fileno(), select.POLLIN
                places = (ours,) if other is None else (ours, (other.fileno(), mask))
                self._poll.wait(places, seconds)
            else:
                readers = [self._reader] if other is None or not reading else [self._reader, other]
                writers = [other] if other is not None and writing else []
                select.select(readers, writers, [], seconds)
        except (ValueError, OSError) as exc:
            if is_of_signal_handler(exc):
                raise
        if self._is_set:  # set between here and there: the next wait ends at once
            self._is_set = False
            with passing_over(OSError):
                self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # there was no descriptor for it
            self.close()
