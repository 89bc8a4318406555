"""What the tests of pika's consumers share: a consumer that keeps all, work for it, losses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["Collector", "fill", "lose", "process_until", "ready"]


def ready(connection: Any, queue: str) -> int:
    """Messages ready; RabbitMQ counts before it has put back what was rejected."""
    with connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


class Collector:
    """A consumer that keeps what it gets."""

    def __init__(self, acks: bool = True) -> None:
        self.tags: list[int] = []
        self.bodies: list[bytes] = []
        self.acks = acks

    def __call__(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.tags.append(method.delivery_tag)
        self.bodies.append(body)
        if self.acks:
            channel.basic_ack(method.delivery_tag)


def fill(channel: Any, queue: str, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        channel.basic_publish("", queue, str(number))


def process_until(connection: Any, is_over: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_over():
        assert time.monotonic() < until, "it did not come"
        connection.process_data_events(time_limit=0.2)


def lose(proxy: Any, connection: Any) -> None:
    """Cut the connection, and have it restored."""
    proxy.reset()
    connection._session.wire.sever("the test says so")
