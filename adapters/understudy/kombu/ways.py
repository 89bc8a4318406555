"""The ways that messages take, made to exist on a broker before the first message takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import amqp

from understudy.failover.notifier import Notifier
from understudy.kombu.topology import Declaration, Topology

__all__ = ["Ways"]


class Ways:
    """Those known to exist on one link; for one thread at a time."""

    def __init__(self, topology: Topology, notifier: Notifier) -> None:
        self._topology = topology
        self._notifier = notifier
        self._known: set[tuple[str, str]] = set()
        self._deferrals = topology.deferrals

    def forget(self) -> None:
        """There is another link."""
        self._known.clear()

    def prepare(
        self,
        exchange: str,
        routing_key: str,
        epoch: int,
        declare: Callable[[Declaration], object],
    ) -> None:
        """Have on the broker of this epoch what the application declared elsewhere, or before."""
        if self._deferrals != self._topology.deferrals:
            self._deferrals = self._topology.deferrals
            self._known.clear()
        way = (exchange, "" if exchange else routing_key)
        if way in self._known:
            return
        for call in self._topology.needed(exchange, routing_key, epoch):
            try:
                declare(call)
            except amqp.exceptions.ChannelError as exc:
                self._notifier.log(logging.WARNING, f"{call.method} was refused: {exc}")
            self._topology.record(call.method, dict(call.arguments), epoch)
        self._known.add(way)
