"""What the queues of a bridge are called. No I/O."""

from __future__ import annotations

import hashlib

from understudyd.bridge.addresses import subscription
from understudyd.bridge.dialects import RABBITMQ_AMQP
from understudyd.bridge.names import QUEUE, Pattern

__all__ = ["LONGEST_NAME", "durable_name", "queue_read"]

LONGEST_NAME = 255  # bytes, of a queue


def durable_name(bridge: str, pattern: Pattern) -> str:
    """What a topic is read by: a queue of ours, or a durable subscription; nothing for a queue."""
    if pattern.kind == QUEUE:
        return ""
    name = f"understudy.bridge.{bridge}.{pattern.text}"
    if len(name.encode()) <= LONGEST_NAME:
        return name
    return f"understudy.bridge.{bridge}.{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def queue_read(bridge: str, pattern: Pattern) -> str:
    """The queue that a bridge reads on a RabbitMQ."""
    return durable_name(bridge, pattern) or subscription(pattern, RABBITMQ_AMQP).name
