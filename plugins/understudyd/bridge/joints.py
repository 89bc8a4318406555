"""What a link is made of: the ends that its two URIs ask for, and what goes between them.

Rules
* The scheme of a URI says what an end speaks.
* From AMQP to AMQP bytes go through as they are, unless a transformer wants to see messages.
* Between other ends each message is translated for what the brokers turned out to be.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, TypeAlias

from understudy import parse
from understudyd.bridge.addresses import TOPIC_EXCHANGE, subscription
from understudyd.bridge.dialects import RABBITMQ_AMQP, Dialect
from understudyd.bridge.ends.amqp import AmqpSource, AmqpTarget, Binding
from understudyd.bridge.ends.deposit import AmqpDeposit, Deposit
from understudyd.bridge.ends.endpoints import Dialer, StompDialer
from understudyd.bridge.ends.port import (
    ConnectionFailed,
    DeadLetters,
    SourceEnd,
    SourceHooks,
    TargetEnd,
    TargetHooks,
)
from understudyd.bridge.ends.sharded_target import ShardedTarget
from understudyd.bridge.ends.stomp_source import StompSource
from understudyd.bridge.ends.stomp_target import StompTarget
from understudyd.bridge.forward import Forwarder
from understudyd.bridge.forward_translated import TranslatingForwarder
from understudyd.bridge.lists import speaks_stomp
from understudyd.bridge.names import QUEUE, Destination, Pattern
from understudyd.bridge.parking import Parking
from understudyd.bridge.parking_translated import DEAD_LETTER, LEFT, TranslatedParking
from understudyd.bridge.queues import durable_name
from understudyd.bridge.replies import ReplyBook
from understudyd.bridge.routes import Routes
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.sharding import GROUPS
from understudyd.bridge.spool.folders import shelf_of
from understudyd.bridge.spool.source import SpooledSource
from understudyd.bridge.spool.words import NoSpool, Spool
from understudyd.bridge.wire.tables import Table
from understudyd.bridge.words import ParkAtSource

__all__ = ["AnyDialer", "Joint", "Span", "deposit_of", "dialer_of", "join", "now", "park"]

AnyDialer: TypeAlias = "Dialer | StompDialer"


@dataclass(frozen=True)
class Span:
    """What a link is to join."""

    name: str
    """Of its bridge."""
    source: AnyDialer
    pattern: Pattern
    """What is read there."""
    target: AnyDialer
    routes: Routes
    settings: LinkSettings = field(default_factory=LinkSettings)

    @property
    def is_raw(self) -> bool:
        """Whether both ends speak AMQP."""
        return isinstance(self.source, Dialer) and isinstance(self.target, Dialer)


@dataclass(frozen=True)
class Joint:
    """The parts of one link."""

    source: SourceEnd
    target: TargetEnd
    forwarder: Forwarder | TranslatingForwarder
    parking: Parking
    deposit: Deposit
    """For what goes to a queue of the source."""
    spool: Spool = NoSpool()  # noqa: RUF009  (it has no state)
    """What there is between the source and the link."""


def dialer_of(uri: str, about: Table, rng: Random) -> AnyDialer:
    """Opens connections to the brokers of a URI; raises ConfigurationError.

    ``about`` is what brokers of AMQP are told of us.
    """
    if speaks_stomp(parse(uri)):
        return StompDialer(uri, rng)
    return Dialer(uri, about, rng)


def join(
    span: Span, hooks: tuple[SourceHooks[Any], TargetHooks], replies: ReplyBook | None = None
) -> Joint:
    """The parts of a link, none of them open yet; ``replies`` has the addresses that responders are
    told.

    Raises ConfigurationError for a pattern that RabbitMQ cannot read.
    """
    name, pattern, routes, settings = span.name, span.pattern, span.routes, span.settings
    queue = pattern.destination if pattern.kind == QUEUE and pattern.is_exact else None
    reader, spool = _reader(span, hooks[0])
    parking: Parking

    def dialects() -> tuple[Dialect, Dialect]:
        assert reader.dialect is not None
        assert writer.dialect is not None
        return reader.dialect, writer.dialect

    forwarder: Forwarder | TranslatingForwarder
    if span.is_raw and not routes.needs_messages:
        parking = Parking(name, settings.parking, now, lambda: writer.frame_max)
        writer = _target(span, parking, queue, hooks[1])
        forwarder = Forwarder(routes, queue.name if queue else None, parking, replies)
    else:
        parking = TranslatedParking(name, dialects, settings.parking, now)
        writer = _target(span, parking, queue, hooks[1])
        room = (parking, dialects, lambda: writer.frame_max)
        forwarder = TranslatingForwarder(routes, queue, pattern.kind, *room, replies=replies)
        forwarder.hop = settings.hop
    return Joint(reader, writer, forwarder, parking, deposit_of(span.source, parking), spool)


async def park(joint: Joint, action: ParkAtSource) -> None:
    """Publish one message to the queue of the source that it is bound for, or what else its parcel
    says (`parking_translated`).

    Raises ConnectionFailed when it is not confirmed.
    """
    source = joint.source
    if action.parcel[0] == LEFT:
        raise ConnectionFailed(action.parcel[1].decode())
    if action.parcel[0] == DEAD_LETTER and isinstance(source, DeadLetters):
        await source.dead_letter(action.tag)
    else:
        await joint.deposit.put(action.parcel)


def deposit_of(dialer: AnyDialer, parking: Parking) -> Deposit:
    """What puts messages into queues of the source."""
    if isinstance(dialer, Dialer):
        return AmqpDeposit(dialer.beside(), parking.queue)
    return Deposit(lambda hooks: StompTarget(dialer.beside(), hooks))


def _reader(span: Span, hooks: SourceHooks[Any]) -> tuple[SourceEnd, Spool]:
    """What the link reads, and what is between that and the source."""
    settings, routes = span.settings, span.routes
    if settings.spool is None:
        return _source(span, hooks), NoSpool()
    shelf = shelf_of(settings.spool, span.name, span.pattern, routes.here, routes.there)
    make = partial(_source, span)
    spooled = SpooledSource(make, shelf, settings, hooks, Random(), span.source.fail)
    return spooled, spooled


def _source(span: Span, hooks: SourceHooks[Any]) -> SourceEnd:
    dialer, pattern, settings = span.source, span.pattern, span.settings
    reading = settings.reading
    durable = durable_name(span.name, pattern)
    if isinstance(dialer, StompDialer):
        return StompSource(
            dialer,
            pattern,
            hooks,
            prefetch=settings.prefetch,
            durable=durable,
            reading=reading,
            keeping=span.routes.selector(reading.selector),
        )
    wanted = subscription(pattern, RABBITMQ_AMQP)
    filled = None
    if pattern.kind != QUEUE:
        filled = Binding(pattern.exchange or TOPIC_EXCHANGE, wanted.name)
    return AmqpSource(
        dialer,
        durable or wanted.name,
        f"understudy.{span.name}",
        hooks,
        binding=filled,
        reading=reading,
    )


def _target(
    span: Span, parking: Parking, queue: Destination | None, hooks: TargetHooks
) -> TargetEnd:
    dialer, settings = span.target, span.settings
    only = None if queue is None else span.routes.target(queue)
    name = only.name if only and only.kind == QUEUE else ""

    def one(place: int, hooks: TargetHooks) -> TargetEnd:
        way = dialer.beside() if place else dialer
        if isinstance(way, Dialer):
            return AmqpTarget(way, parking.queue, hooks)
        return StompTarget(way, hooks, queue=name)

    if settings.shards == 1:
        return one(0, hooks)
    names = (settings.shard_by,) if settings.shard_by else GROUPS
    return ShardedTarget(settings.shards, one, names, hooks)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
