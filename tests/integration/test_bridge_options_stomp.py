"""The options of a bridge at brokers that are spoken to in STOMP: each does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.settings import LinkSettings, Reading
from understudyd.bridge.wire.properties import build
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.pairs import Pair
from understudyd.testing.sides import AmqpSide, StompSide

pytestmark = pytest.mark.integration

KEPT = {"persistent": "true"}
FAR = {"x-understudy-path": "c/", "x_understudy_path": "c/"}


@pytest.fixture
def from_activemq(activemq: ActiveMQ, rabbit_b: RabbitMQ, unique: str) -> Iterator[Pair]:
    yield from made(Pair(StompSide(activemq), AmqpSide(rabbit_b), unique))


@pytest.fixture
def from_rabbitmq(rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str) -> Iterator[Pair]:
    yield from made(Pair(StompSide(rabbit_a), AmqpSide(rabbit_b), unique))


@pytest.fixture
def to_activemq(activemq: ActiveMQ, rabbit_b: RabbitMQ, unique: str) -> Iterator[Pair]:
    yield from made(Pair(AmqpSide(rabbit_b), StompSide(activemq), unique))


def made(pair: Pair) -> Iterator[Pair]:
    pair.make()
    yield pair
    pair.remove()


def put(pair: Pair, body: bytes, **headers: str) -> None:
    assert isinstance(pair.source, StompSide)
    pair.source.put(pair.here, StompContent({**KEPT, **headers}, body))


def test_activemq_keeps_from_us_what_has_come_far_enough(from_activemq: Pair) -> None:
    """B09, scenario 56: never delivered to the bridge, and in order for its own consumers."""
    pair = from_activemq
    for number in range(5):
        put(pair, b"far %d" % number, **FAR)
        put(pair, b"fresh %d" % number)
    put(pair, b"back", **{"x-understudy-path": "c/", "x_understudy_path": "target/"})
    with pair.link(network_ttl=1) as link:
        link.await_forwarded(5)
        assert link.state == "running"
    assert pair.arrived() == [b"fresh %d" % number for number in range(5)]
    assert pair.left() == [*[b"far %d" % number for number in range(5)], b"back"]


def test_what_a_foreign_bridge_brought_without_our_header_goes_back(from_activemq: Pair) -> None:
    """Neither parked nor settled away; what went back has our header, which the selector sees."""
    pair = from_activemq
    put(pair, b"far", **{"x-understudy-path": "c/"})
    put(pair, b"fresh")
    with pair.link(network_ttl=1) as link:
        link.await_forwarded(1)
        until(lambda: not link.in_flight, "the other went back")
        assert (link.forwarded, link.parked) == (1, 0)
    (left,) = pair.source.take(pair.here)
    assert left.body == b"far"
    assert isinstance(left, StompContent)
    assert left.headers["x_understudy_path"] == "c/"
    assert pair.arrived() == [b"fresh"]


@pytest.mark.slow
def test_over_rabbitmqs_stomp_it_goes_back_to_the_tail_at_a_bounded_rate(
    from_rabbitmq: Pair,
) -> None:
    pair = from_rabbitmq
    for number in range(30):
        put(pair, b"%d" % number, **FAR)
    with pair.link(network_ttl=1) as link:
        link.await_state("holding")
        put(pair, b"fresh")
        link.await_forwarded(1)
        assert link.parked == 0
    assert pair.arrived() == [b"fresh"]
    assert sorted(map(int, pair.left())) == list(range(30))


def test_a_selector_of_the_users_and_ours_go_together(from_activemq: Pair) -> None:
    """B27."""
    pair = from_activemq
    put(pair, b"red", colour="red")
    put(pair, b"blue", colour="blue")
    put(pair, b"red and far", colour="red", **FAR)
    settings = LinkSettings(reading=Reading(selector="colour = 'red'"))
    with pair.link(network_ttl=1, settings=settings) as link:
        link.await_forwarded(1)
    assert pair.arrived() == [b"red"]
    assert pair.left() == [b"blue", b"red and far"]


def test_a_selector_that_a_broker_has_not_is_told(from_rabbitmq: Pair) -> None:
    settings = LinkSettings(reading=Reading(selector="colour = 'red'"))
    with from_rabbitmq.link(settings=settings) as link:
        until(lambda: "RabbitMQ over STOMP has no selectors" in link.reason, "it is told")
        assert link.state == "waiting-source"


def test_a_selector_that_is_none_is_told_as_it_was_given(from_activemq: Pair) -> None:
    settings = LinkSettings(reading=Reading(selector="colour ="))
    with from_activemq.link(settings=settings) as link:
        until(lambda: "ActiveMQ" in link.reason, "it is told")
        assert link.reason.endswith("ActiveMQ refuses the selector 'colour ='")
        assert link.state == "waiting-source"


def test_activemqs_own_consumers_come_first(from_activemq: Pair) -> None:
    """B12: those with room get all of it."""
    pair = from_activemq
    assert isinstance(pair.source, StompSide)
    with pair.source.connected() as consumer:
        consumer.subscribe(pair.source.address(pair.here))
        with pair.link() as link:
            link.await_state("running")
            for number in range(10):
                put(pair, b"%d" % number)
            taken = [consumer.read("MESSAGE") for _ in range(10)]
            consumer.write("ACK", {"id": taken[-1].headers["ack"], "receipt": "acked"})
            consumer.read("RECEIPT")
            assert link.forwarded == 0


@pytest.mark.parametrize(("body", "has_length"), [("text", False), ("bytes", True)])
def test_bodies_become_what_is_asked(to_activemq: Pair, body: str, has_length: bool) -> None:
    """Scenario 2: to JMS one with a length is bytes, one without is text."""
    pair = to_activemq
    assert isinstance(pair.source, AmqpSide)
    pair.source.put(pair.here, AmqpContent(build({"delivery_mode": 2}), "é".encode()))
    pair.move(1, body=body)
    assert isinstance(pair.target, StompSide)
    (arrived,) = pair.target.take(pair.there)
    assert arrived.has_length is has_length
    assert arrived.body == "é".encode()


def test_wildcards_of_activemq_without_what_is_excluded(
    activemq: ActiveMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """B04: the excluded queue keeps its messages, the others are emptied."""
    source, target = StompSide(activemq), AmqpSide(rabbit_b)
    name = unique.replace(".", "-")
    for part in ("a", "b.c", "test"):
        source.put(f"{name}.{part}", StompContent(KEPT, part.encode()))
    for part in ("a", "b.c"):
        target.make(f"{name}.{part}")
    options: dict[str, Any] = {
        "excluded": [f"queue://{name}.test"],
        "dynamically_included": [f"queue://{name}.>"],
        "name": name,
    }
    pattern = f"queue://{name}.>"
    with RunningLink(source.uri, target.uri, pattern, **options) as link:
        link.await_forwarded(2)
    for part in ("a", "b.c"):
        assert [content.body for content in target.take(f"{name}.{part}")] == [part.encode()]
        target.remove(f"{name}.{part}")
    assert [content.body for content in source.take(f"{name}.test")] == [b"test"]
