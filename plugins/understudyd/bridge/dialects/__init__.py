"""What differs between the brokers a bridge joins: one file of facts for each way to talk to one.

What a client has to know too (receipts, cumulative acks, what a NACK does) stands in
`understudy.wire.stomp_dialects` and is referred to; nothing is said twice.
"""

from __future__ import annotations

from understudy.wire.stomp_dialects import detect
from understudyd.bridge.dialects import rabbitmq_amqp, rabbitmq_stomp
from understudyd.bridge.dialects.activemq import ACTIVEMQ
from understudyd.bridge.dialects.artemis import ARTEMIS
from understudyd.bridge.dialects.errors import of_error
from understudyd.bridge.dialects.facts import (
    Dialect,
    Expiry,
    Limits,
    StompFacts,
    Subscribing,
)
from understudyd.bridge.dialects.rabbitmq_amqp import RABBITMQ_AMQP
from understudyd.bridge.dialects.rabbitmq_stomp import RABBITMQ_STOMP

__all__ = [
    "ACTIVEMQ",
    "ARTEMIS",
    "RABBITMQ_AMQP",
    "RABBITMQ_STOMP",
    "Dialect",
    "Expiry",
    "Limits",
    "StompFacts",
    "Subscribing",
    "of_amqp",
    "of_error",
    "of_stomp",
]


def of_stomp(server: str) -> Dialect | None:
    """By the server header of CONNECTED; None for a broker of which nothing is known here: what
    does not know what an ack or a receipt means can move no message safely."""
    client = detect(server)
    if client is RABBITMQ_STOMP.client:
        return rabbitmq_stomp.of_version(server)
    return next((dialect for dialect in (ACTIVEMQ, ARTEMIS) if dialect.client is client), None)


of_amqp = rabbitmq_amqp.of_connection
