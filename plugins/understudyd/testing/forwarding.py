"""Deliveries of either kind, and a forwarder for them between any two brokers."""

from __future__ import annotations

from typing import Any

from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_STOMP, Dialect
from understudyd.bridge.forward_translated import TranslatingForwarder
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.names import Destination
from understudyd.bridge.parcels import amqp_content
from understudyd.bridge.parking_translated import TranslatedParking
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.wire.bodies import body_frames
from understudyd.bridge.wire.properties import build, read
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import Value

__all__ = [
    "AMQP_ROUTE",
    "FROM_STOMP",
    "NOW",
    "PARKING",
    "QUEUE",
    "STOMPS",
    "fields_of",
    "forwarder",
    "from_amqp",
    "message",
]

NOW = 1_800_000_000_000
QUEUE = Destination("queue", "orders")
PARKING = "understudy.parking.b"
STOMPS = [RABBITMQ_STOMP, ACTIVEMQ, ARTEMIS]
AMQP_ROUTE = b"\0\x06orders"
FROM_STOMP = "ID:h-1-2:3:-1:1:1"


def forwarder(
    source: Dialect, target: Dialect, queue: Destination | None = QUEUE, **options: Any
) -> TranslatingForwarder:
    def dialects() -> tuple[Dialect, Dialect]:
        return source, target

    routes = Routes(Options(**{"network_ttl": -1, **options}), "a/", "b/")
    parking = TranslatedParking("b", dialects)
    kind = "topic" if queue is None else queue.kind
    return TranslatingForwarder(routes, queue, kind, parking, dialects, lambda: 4096)


def from_amqp(
    tag: int, fields: dict[str, Value], body: bytes = b"body", route: bytes = AMQP_ROUTE
) -> Delivery:
    return (tag, 0, route, build(fields), len(body), body_frames(body, 4096))


def message(body: bytes = b"body", **headers: str) -> StompContent:
    """A MESSAGE of ActiveMQ."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"destination": "/queue/orders", "message-id": FROM_STOMP, "ack": "1", "priority": "4"}
    return StompContent({**given, "expires": "0", **named}, body)


def fields_of(parcel: Parcel) -> dict[str, Value]:
    return read(amqp_content(parcel).properties)
