"""The port through which the shell reaches a broker; one implementation for each host library."""

from __future__ import annotations

from typing import Protocol, TypeVar

from understudy.core.endpoint import Endpoint

__all__ = ["Dialer"]

C = TypeVar("C")


class Dialer(Protocol[C]):
    """Makes and breaks connections of type C (hashable, weakly referable).

    `dial` runs on one of the supervisor's threads (at interpreter exit: on a waiting caller's),
    never under a lock. Every other method may be called from any thread, also under the
    supervisor's lock, and must never block, whatever state the connection and its peer are in.
    """

    def dial(self, endpoint: Endpoint, timeout: float) -> C:
        """Return a connection whose handshake is done; raise any Exception on failure.

        Must come back within about ``timeout`` seconds, TCP, TLS and protocol handshake included,
        also when the peer accepts and then stays silent.
        """

    def sever(self, connection: C) -> None:
        """Break the connection at once, so that any thread blocked in it wakes with an error."""

    def abandon(self, connection: C) -> None:
        """In a forked child: close the inherited descriptor, no byte written, no shutdown."""

    def is_alive(self, connection: C) -> bool:
        """False when the connection is known to be broken or its peer has closed it."""

    def discard(self, connection: C) -> None:
        """Close a healthy connection that nobody uses, as gracefully as is possible at once."""
