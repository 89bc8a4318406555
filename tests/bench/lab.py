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
from understudy.testing.brokers import ActiveMQ, RabbitMQ, start_all

__all__ = [
    "BODY",
    "QUEUE",
    "QUEUE_ARGUMENTS",
    "QUEUE_LIMIT",
    "Address",
    "Lab",
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
    """Two private RabbitMQ nodes, and two ActiveMQ brokers; each started when first asked for, so
    that an idle one costs the first cases nothing."""

    def __init__(self) -> None:
        self._nodes = {name: RabbitMQ(name=f"bench-{name}", stomp=True) for name in "ab"}
        self._activemqs = [ActiveMQ(name=f"bench-amq-{name}") for name in "ab"]

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in (*self._nodes.values(), *self._activemqs):
            server.close()

    def node(self) -> RabbitMQ:
        return self._running("a")[0]

    def both(self) -> tuple[RabbitMQ, RabbitMQ]:
        first, second = self._running("a", "b")
        return first, second

    def amqp(self) -> tuple[Address, Address]:
        a, b = self.both()
        return Address(a.uri, a.host, a.port), Address(b.uri, b.host, b.port)

    def rabbitmq_stomp(self) -> tuple[Address, Address]:
        a, b = self.both()
        assert a.stomp_port
        assert b.stomp_port
        return (
            Address(a.stomp_uri, a.host, a.stomp_port),
            Address(b.stomp_uri, b.host, b.stomp_port),
        )

    def activemq_stomp(self) -> tuple[Address, Address]:
        start_all(*(broker for broker in self._activemqs if not broker.is_running))
        first, second = (Address(b.uri, b.host, b.port) for b in self._activemqs)
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


def raw_connection(node: RabbitMQ, **options: Any) -> Any:
    """A bare py-amqp connection, not yet connected."""
    user, password = next(iter(node.users.items()))
    return amqp.Connection(f"{node.host}:{node.port}", userid=user, password=password, **options)


def purge(node: RabbitMQ) -> None:
    with raw_connection(node) as connection:
        connection.channel().queue_purge(QUEUE)
