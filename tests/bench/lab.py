"""The broker nodes of a run, and the queue that all peers send to.

The queue is durable and bounded (`QUEUE_LIMIT`, the oldest go first), for our side and the peers
alike: RabbitMQ slows down with deep queues, and would do so for whoever comes second. It is purged
before every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import amqp

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ, start_all

__all__ = [
    "BODY",
    "QUEUE",
    "QUEUE_ARGUMENTS",
    "QUEUE_LIMIT",
    "Address",
    "Lab",
    "amqp_addresses",
    "purge",
    "raw_connection",
]

BODY = b"x" * 1024
QUEUE = "understudy.bench"
QUEUE_LIMIT = 10_000  # messages
QUEUE_ARGUMENTS = {"x-max-length": QUEUE_LIMIT, "x-overflow": "drop-head"}


@dataclass(frozen=True)
class Address:
    """Where a broker of the bench listens, and how to log in."""

    uri: str
    host: str
    port: int

    def through(self, proxy: FaultProxy) -> str:
        """The same broker behind a proxy."""
        return self.uri.replace(f"{self.host}:{self.port}", f"{proxy.host}:{proxy.port}")


class Lab:
    """Two private RabbitMQ nodes, each started when first asked for, so that an idle one costs
    the first cases nothing."""

    def __init__(self) -> None:
        self._nodes = {name: RabbitMQ(name=f"bench-{name}") for name in "ab"}

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in self._nodes.values():
            node.close()

    def node(self) -> RabbitMQ:
        return self._running("a")[0]

    def both(self) -> tuple[RabbitMQ, RabbitMQ]:
        first, second = self._running("a", "b")
        return first, second

    def version(self) -> str:
        """What the broker calls itself; "?" when none runs."""
        for node in self._nodes.values():
            if node.is_running:
                with raw_connection(node) as connection:
                    properties: dict[str, Any] = connection.server_properties
                    return f"{properties['product']} {properties['version']}"
        return "?"

    def _running(self, *names: str) -> list[RabbitMQ]:
        nodes = [self._nodes[name] for name in names]
        down = [node for node in nodes if not node.is_running]
        start_all(*down)
        for node in down:
            with raw_connection(node) as connection:
                channel = connection.channel()
                channel.queue_declare(
                    QUEUE, durable=True, auto_delete=False, arguments=QUEUE_ARGUMENTS
                )
        return nodes


def amqp_addresses(lab: Lab) -> tuple[Address, Address]:
    a, b = lab.both()
    return Address(a.uri, a.host, a.port), Address(b.uri, b.host, b.port)


def raw_connection(node: RabbitMQ, **options: Any) -> Any:
    """A bare py-amqp connection, not yet connected."""
    user, password = next(iter(node.users.items()))
    return amqp.Connection(f"{node.host}:{node.port}", userid=user, password=password, **options)


def purge(node: RabbitMQ) -> None:
    with raw_connection(node) as connection:
        connection.channel().queue_purge(QUEUE)
