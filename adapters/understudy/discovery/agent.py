"""The port of discovery: an agent knows where brokers are, and tells whenever that changes.

Third parties add an agent by an entry point in the group ``understudy.discovery``: its name is the
scheme in ``discovery:(scheme:…)``, its value a callable that takes the whole address and returns a
`DiscoveryAgent`, or raises ConfigurationError for an address that can't be right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from understudy.core.endpoint import Endpoint

__all__ = ["DiscoveryAgent", "ListensOnConnection", "Reports"]


class Reports(Protocol):
    """Where an agent tells what it knows. Any thread may; never blocks for long, never raises."""

    def found(
        self, addresses: Iterable[str], *, rebalance: bool = False, move_to: str | None = None
    ) -> None:
        """The brokers that this agent knows are now exactly these, and no more.

        Addresses as in a list, ``amqp://host:port/vhost``; they carry no credentials and no
        options. Tell it again as often as you like: only a change does anything. With ``rebalance``
        the clients are asked to spread over a changed list; ``move_to`` asks this one to go to that
        broker.
        """

    def failed(self, cause: str) -> None:
        """The agent cannot ask its source now; what it found before stays. Logged once."""


class DiscoveryAgent(Protocol):
    """Finds brokers. `start` and `stop` alternate, any number of times, and never run together.

    A constructor touches no network. An agent that owns sockets or locks registers with
    `understudy.failover.forking`: a forked child shares neither with its parent, and makes its own
    agents.
    """

    def start(self, reports: Reports) -> None:
        """Begin to look, on threads of the agent's own; must not wait for anything.

        What cannot be asked now is told by ``reports.failed`` and asked again later.
        """

    def stop(self) -> None:
        """End threads and sockets soon; must not wait for them. Later reports are ignored."""


@runtime_checkable
class ListensOnConnection(Protocol):
    """What an agent also has that hears of brokers over the client's own connection."""

    def connected(self, endpoint: Endpoint, connection: object) -> None:
        """The adapter has made this connection, of its host library's own type.

        Called for each one (spare ones too) while the agent is started, on the thread that made
        it and before anybody else uses it, so that the agent may subscribe there. It must not
        take longer than a request to the broker, and must not keep the connection alive. What it
        raises is logged and harms nobody. That the connection is lost the agent notices itself.
        """
