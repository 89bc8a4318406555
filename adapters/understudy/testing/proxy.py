"""A TCP proxy that makes the network fail, for tests: standard library only, one thread.

Put it between a client and a broker and tell it what the network does next. "Up" is from the client
to the target. Every call takes effect before it returns, may come from any thread, and may be made
by a ``then`` callback. Modes add up, hold for existing and for new connections, and end with
``heal()``; ``reset()`` and ``fin()`` are moments, not modes.

A target that refuses is seen by the client as a connection that is reset right after it was made
(``connect`` may tell it already): only ``refuse()`` refuses. The proxy does not look into TLS:
there ``cut_on`` finds no frames.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from selectors import EVENT_READ
from types import TracebackType
from typing import Any, Literal

from understudy.testing.frames import MethodId
from understudy.testing.proxy_cuts import ByteCut, Cut, Direction, FrameCut, How
from understudy.testing.proxy_link import Address, Link, Shared
from understudy.testing.proxy_loop import Loop
from understudy.testing.proxy_pipe import Conditions

__all__ = ["Cut", "FaultProxy"]

BACKLOG = 128


class FaultProxy:
    """A TCP proxy with switchable faults.

    ``with FaultProxy("127.0.0.1", 5672) as proxy:`` listens on ``proxy.host``, ``proxy.port``;
    outside a ``with``, ``start()`` and ``close()`` do the same. It listens on a loopback address
    only.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        listen_port: int = 0,
        *,
        listen_host: Literal["127.0.0.1", "::1"] = "127.0.0.1",
    ) -> None:
        self.host: str = listen_host
        self.port = listen_port  # the real one once started
        self.accepted = 0  # connections accepted in all
        self._target = (target_host, target_port)
        self._conditions = Conditions()
        self._links: dict[Link, None] = {}  # in the order of their coming
        self._listener: socket.socket | None = None
        self._is_refusing = False
        self._shared: Shared | None = None

    def __repr__(self) -> str:
        conditions = self._conditions
        modes = {
            "refusing": self._is_refusing,
            "black hole": conditions.black_hole,
            f"only {conditions.one_way}": conditions.one_way is not None,
            f"delay {conditions.delay:g} s": conditions.delay > 0,
            f"{conditions.rate or 0:g} bytes/s": conditions.rate is not None,
        }
        state = ", ".join(mode for mode, is_on in modes.items() if is_on) or "healthy"
        target = ":".join(map(str, self._target))
        return f"<FaultProxy {self.host}:{self.port} -> {target}, {len(self._links)} open, {state}>"

    def start(self) -> FaultProxy:
        """Listen and begin to forward."""
        if self._shared is not None:
            raise RuntimeError("a proxy is started once")
        family, address = resolve(*self._target)
        self._listener = self._bound()
        self.port = self._listener.getsockname()[1]
        loop = Loop(f"FaultProxy-{self.port}")
        self._shared = Shared(loop, self._conditions, family, address, self._forget)
        self._listen(self._listener, loop)
        loop.start()
        return self

    def close(self) -> None:
        """End every connection orderly, stop listening, end the thread. May be called twice."""
        if self._shared is None:
            return
        with contextlib.suppress(RuntimeError):  # closed already
            self._shared.loop.call(self._shut)
        self._shared.loop.stop()
        self._shut()  # what is left when the thread had ended on an error

    def __enter__(self) -> FaultProxy:
        return self if self._shared is not None else self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many clients' connections are open now; in a black hole, the dead ones too."""
        return self._ask(lambda: len(self._links))

    @property
    def bytes_up(self) -> int:
        """Bytes that have passed from clients to the target."""
        shared = self._shared
        return self._ask(lambda: shared.bytes_up if shared is not None else 0)

    @property
    def bytes_down(self) -> int:
        """Bytes that have passed from the target to clients."""
        shared = self._shared
        return self._ask(lambda: shared.bytes_down if shared is not None else 0)

    def retarget(self, host: str, port: int) -> None:
        """Connect to another target from now on; existing connections stay where they are."""
        family, address = resolve(host, port)

        def change(shared: Shared) -> None:
            self._target = (host, port)
            shared.family, shared.target = family, address

        self._do(change)

    def heal(self, *, drop: bool = False) -> None:
        """End all modes and disarm all cuts; what was held back passes now.

        ``drop=True`` loses what a black hole or a half-open network held back, by resetting the
        connections that were in it.
        """

        def change(shared: Shared) -> None:
            was_silent = shared.conditions.is_silent
            shared.conditions.calm()
            for link in list(self._links):
                if drop and (was_silent or link.is_hole):
                    link.reset()
                link.is_hole = False
            if self._is_refusing and self._listener is not None:
                self._is_refusing = False
                self._listen(self._listener, shared.loop)

        self._do(change)

    def refuse(self) -> None:
        """Refuse new connections; existing ones stay. The port remains ours meanwhile."""

        def change(shared: Shared) -> None:
            if self._listener is None or self._is_refusing:
                return
            self._is_refusing = True
            shared.loop.watch(self._listener, 0, self._accept)
            self._listener.close()
            self._listener = self._bound()  # bound and not listening: nobody else gets the port

        self._do(change)

    def reset(self) -> None:
        """Cut all existing connections, both sides, with RST."""

        def change(_: Shared) -> None:
            for link in list(self._links):
                link.reset()

        self._do(change)

    def fin(self) -> None:
        """End all existing connections, both sides, with FIN; bytes held back are lost."""

        def change(_: Shared) -> None:
            for link in list(self._links):
                link.finish()

        self._do(change)

    def black_hole(self) -> None:
        """Let nothing pass, either way, ends of connections included.

        New connections are accepted and stay silent; the target is connected to after ``heal()``.
        Bytes are kept, at first in our buffers and then in the sender's own, as in a real outage.
        """

        def change(shared: Shared) -> None:
            shared.conditions.black_hole = True

        self._do(change)

    def half_open(self, direction: Direction = "up") -> None:
        """Let existing connections pass one direction only; accept new ones and stay silent."""

        def change(shared: Shared) -> None:
            shared.conditions.one_way = direction

        self._do(change)

    def delay(self, seconds: float) -> None:
        """Pass each chunk that many seconds after it came, both ways, order kept; 0 = at once."""
        if seconds < 0:
            raise ValueError("seconds must not be below 0")

        def change(shared: Shared) -> None:
            shared.conditions.delay = seconds

        self._do(change)

    def throttle(self, bytes_per_second: float) -> None:
        """Limit each direction of each connection."""
        if bytes_per_second <= 0:
            raise ValueError("bytes_per_second must be above 0; black_hole() passes nothing")

        def change(shared: Shared) -> None:
            shared.conditions.rate = bytes_per_second

        self._do(change)

    def cut_after(
        self,
        n_bytes: int,
        direction: Direction | Literal["both"] = "down",
        how: How = "rst",
        *,
        then: Callable[[], object] | None = None,
        times: int | None = 1,
    ) -> Cut:
        """Cut a connection after exactly ``n_bytes`` more bytes have passed on it.

        Each connection is counted for itself, existing ones from now on. The first to get there is
        cut (``times=None``: every one). "both" adds up the directions. ``then``: see ``cut_on``.
        """
        cut = ByteCut(
            n_bytes, direction, how=how, then=then, times=times, on_cancel=self._on_cancel
        )

        def change(shared: Shared) -> None:
            shared.conditions.byte_cuts.append(cut)
            for link in self._links:
                link.count_bytes(cut)

        self._do(change)
        return cut

    def cut_on(
        self,
        method: MethodId,
        nth: int = 1,
        *,
        direction: Direction,
        before: bool = True,
        how: How = "rst",
        then: Callable[[], object] | None = None,
        times: int | None = 1,
    ) -> Cut:
        """Cut a connection just before, or just after, an AMQP 0-9-1 method passes.

        ``method`` is (class id, method id), see ``understudy.testing.frames``. The nth frame of the
        method is meant, counted from now on over all connections in the order of passing. "After" a
        method with content is after its content. The other direction is cut at the same moment.

        At that moment ``then`` runs, in the proxy's thread: all bytes before the cut have been
        given to the kernel, no later byte passes any more, the connection still stands, and the
        whole proxy waits. When it returns the connection is cut, whatever it raised; ``wait()``
        raises that. ``times`` is how often to cut, counting anew each time; None = until cancelled
        or healed.
        """
        cut = FrameCut(
            method,
            nth,
            direction,
            before=before,
            how=how,
            then=then,
            times=times,
            on_cancel=self._on_cancel,
        )
        self._do(lambda shared: shared.conditions.frame_cuts.append(cut))
        return cut

    def _on_cancel(self, cut: Cut) -> None:
        def change(shared: Shared) -> None:
            cut.is_armed = False
            shared.conditions.drop_disarmed()

        self._do(change)

    def _do(self, change: Callable[[Shared], object]) -> None:
        """Run ``change`` in the thread, then let every connection do what it now may."""
        shared = self._shared
        if shared is None:
            raise RuntimeError("the proxy is not started")

        def run() -> None:
            change(shared)
            for link in list(self._links):
                link.refresh()

        shared.loop.call(run)

    def _ask(self, count: Callable[[], int]) -> int:
        """Count in the thread: what the caller has seen happen is then in the count."""
        if self._shared is not None:
            with contextlib.suppress(RuntimeError):  # closed
                return self._shared.loop.call(count)
        return count()

    def _bound(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def _listen(self, listener: socket.socket, loop: Loop) -> None:
        listener.listen(BACKLOG)
        listener.setblocking(False)
        loop.watch(listener, EVENT_READ, self._accept)

    def _accept(self, _: int) -> None:
        if self._listener is None or self._is_refusing or self._shared is None:
            return
        while True:
            try:
                client, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            self.accepted += 1
            link = Link(client, self._shared)
            self._links[link] = None
            link.refresh()

    def _forget(self, link: Link) -> None:
        self._links.pop(link, None)

    def _shut(self) -> None:
        for link in list(self._links):
            link.finish()
        if self._listener is not None and self._shared is not None:
            self._shared.loop.watch(self._listener, 0, self._accept)
            self._listener.close()
            self._listener = None


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    """The address to connect to; IPv4 first, as a local broker may listen on that only."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    best: tuple[Any, ...] = min(found, key=lambda info: info[0] != socket.AF_INET)
    return best[0], best[4]
