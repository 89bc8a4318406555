"""The port through which the shell reaches a broker; one implementation for each host library."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

from understudy.core.endpoint import Endpoint

__all__ = ["Dialer", "TellsRefusals"]

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


@runtime_checkable
class TellsRefusals(Protocol):
    """A dialer that knows when an endpoint is alive and yet takes no further connection."""

    def is_refusal(self, exc: Exception) -> bool:
        """Whether ``exc``, which `dial` raised, is the broker's own no (a limit, a permission).

        False when it may as well be dead, or about to go. While it serves other connections, a
        refusal concerns only who asked; any other failure has the endpoint left.
        """
