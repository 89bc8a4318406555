"""What moves a queue from one RabbitMQ to another: our bridge, or RabbitMQ's own shovel.

Both consume a durable queue and publish to one of the same name with confirms, persistent messages
with the same prefetch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import amqp
from tests.bench.lab import raw_connection

from understudy.testing.brokers import RabbitMQ, start_all
from understudyd.testing.bridged import BridgeProcess

__all__ = ["QUEUE", "Mover", "Nodes", "bridge", "fill", "nodes", "prepare", "shovel"]

QUEUE = "understudy.bench.bridge"
UNCONFIRMED = 2000  # messages on the way while a queue is filled

Nodes = tuple[RabbitMQ, RabbitMQ]
"""Source and target."""


class Mover(Protocol):
    """Moves the queue while the context is open."""

    def __call__(self, both: Nodes, prefetch: int) -> AbstractContextManager[int | None]:
        """Gives the pid, where it is a process of its own."""


@contextmanager
def nodes() -> Iterator[Nodes]:
    with ExitStack() as stack:
        source = RabbitMQ(name="bench-from", plugins=["rabbitmq_shovel"])
        target = RabbitMQ(name="bench-to")
        for node in (source, target):
            stack.callback(node.close)
        start_all(source, target)
        yield source, target


def prepare(both: Nodes, body: bytes, count: int) -> None:
    """Two empty queues, then the first one filled."""
    for node in both:
        with raw_connection(node) as connection:
            channel = connection.channel()
            channel.queue_delete(QUEUE)
            channel.queue_declare(QUEUE, durable=True, auto_delete=False)
    fill(both[0], body, count)


def fill(node: RabbitMQ, body: bytes, count: int, queue: str = QUEUE) -> None:
    """Publish persistent messages to a queue; returns when all are confirmed."""
    with raw_connection(node) as connection:
        channel = connection.channel()
        channel.confirm_select()
        acked = [0]
        channel.events["basic_ack"].add(lambda tag, _: acked.append(tag))
        for number in range(1, count + 1):
            channel._basic_publish(amqp.Message(body, delivery_mode=2), routing_key=queue)
            while number - max(acked[-50:]) > UNCONFIRMED:
                connection.drain_events(timeout=60)
        while max(acked[-50:]) < count:
            connection.drain_events(timeout=60)


@contextmanager
def bridge(both: Nodes, prefetch: int) -> Iterator[int | None]:
    """Raises AssertionError when it has ended by itself."""
    with TemporaryDirectory() as folder:
        uris = (both[0].uri, both[1].uri)
        with BridgeProcess(Path(folder), *uris, QUEUE, prefetch_size=prefetch) as running:
            assert running.process is not None
            yield running.process.pid
            assert running.process.poll() is None, "the bridge has ended"
            running.stop()


@contextmanager
def shovel(both: Nodes, prefetch: int) -> Iterator[int | None]:
    settings = {
        "src-protocol": "amqp091",
        "src-uri": both[0].uri,
        "src-queue": QUEUE,
        "src-prefetch-count": prefetch,
        "dest-protocol": "amqp091",
        "dest-uri": both[1].uri,
        "dest-queue": QUEUE,
        "ack-mode": "on-confirm",
    }
    both[0].ctl("set_parameter", "shovel", "bench", json.dumps(settings))
    try:
        yield None
    finally:
        both[0].ctl("clear_parameter", "shovel", "bench")
