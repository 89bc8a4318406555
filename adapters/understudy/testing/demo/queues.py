"""What is left in a queue, asked of the broker itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import amqp

from understudy.testing.brokers import RabbitMQ

__all__ = ["depth", "taken", "version"]

PATIENCE = 5.0  # s; a broker that is up answers in milliseconds


@contextmanager
def _connected(broker: RabbitMQ, vhost: str) -> Iterator[Any]:
    user, password = next(iter(broker.users.items()))
    with amqp.Connection(
        f"{broker.host}:{broker.port}",
        userid=user,
        password=password,
        virtual_host=vhost,
        connect_timeout=PATIENCE,
        read_timeout=PATIENCE,
        write_timeout=PATIENCE,
    ) as connection:
        yield connection


def version(broker: RabbitMQ, vhost: str) -> str:
    """What the broker says it is."""
    with _connected(broker, vhost) as connection:
        return str(connection.server_properties["version"])


def depth(broker: RabbitMQ, vhost: str, queue: str) -> int:
    """Messages ready for delivery; 0 if there is no such queue."""
    with _connected(broker, vhost) as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
        except amqp.NotFound:
            return 0


def taken(broker: RabbitMQ, vhost: str, queue: str) -> set[str]:
    """Take all messages out of a queue and return their task ids."""
    with _connected(broker, vhost) as connection:
        channel = connection.channel()
        ids: set[str] = set()
        try:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                ids.add(message.headers["id"])
        except amqp.NotFound:
            pass
        return ids
