"""From a delivery to what is sent, where one end speaks STOMP or both."""

from __future__ import annotations

import pytest

from understudyd.bridge.content import AmqpContent, Dropped, StompContent, Untranslatable
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_AMQP, RABBITMQ_STOMP, Dialect
from understudyd.bridge.forward_translated import KEPT, TranslatingForwarder
from understudyd.bridge.mapping import Message
from understudyd.bridge.parcels import (
    amqp_content,
    amqp_parcel,
    amqp_route,
    stomp_content,
    stomp_parcel,
)
from understudyd.bridge.parking_translated import TranslatedParking
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.wire.bodies import body_frames
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build
from understudyd.bridge.wire.tables import Typed, Value
from understudyd.bridge.worn import COUNT, USUAL_LIMIT, most_of
from understudyd.testing.forwarding import (
    FROM_STOMP,
    NOW,
    PARKING,
    STOMPS,
    fields_of,
    forwarder,
    from_amqp,
    message,
)

MOST = most_of(USUAL_LIMIT)


@pytest.mark.parametrize("dialect", STOMPS, ids=lambda dialect: dialect.name)
def test_amqp_becomes_a_send(dialect: Dialect) -> None:
    ours = forwarder(RABBITMQ_AMQP, dialect, rename={"queue://orders": "queue://new"})
    fields: dict[str, Value] = {
        "delivery_mode": 2,
        "headers": {"f": 1.75, "n": {"a": [None, Typed("T", 1 << 50)]}, "s": "é\n:"},
    }
    tags, parcels, aside, *_ = ours.prepare([from_amqp(3, fields), from_amqp(4, fields)], NOW)
    assert (tags, aside) == ([3, 4], [])
    head, nothing, body, size = parcels[0]
    assert head.startswith(b"SEND\ndestination:")
    assert head.endswith(b"\n")
    assert not head.endswith(b"\n\n")
    assert (nothing, body, size) == (b"", b"body\0", 4)
    content = stomp_content(parcels[0])
    where = {"Artemis": "new", "ActiveMQ": "/queue/new"}.get(dialect.name, "/amq/queue/new")
    assert content.headers["destination"] == where
    assert content.headers.get("destination-type") == ("ANYCAST" if dialect is ARTEMIS else None)
    assert content.headers["persistent"] == "true"
    assert content.headers["x-understudy-path"] == "a/"
    assert content.headers["s"] == "é\n:"
    back = forwarder(dialect, RABBITMQ_AMQP).prepare([(1, content)], NOW).parcels[0]
    assert fields_of(back) == {
        **fields,
        "headers": {**fields["headers"], "x-understudy-path": "a/,a/"},  # type: ignore[dict-item]
    }


def test_a_send_becomes_amqp_in_frames_that_the_target_takes() -> None:
    ours = forwarder(ACTIVEMQ, RABBITMQ_AMQP)
    body = b"x" * 10_000
    ((publish, header, frames, size),) = ours.prepare([(1, message(body))], NOW).parcels
    assert publish == encode_publish("", "orders")
    assert frames == body_frames(body, 4096)
    assert size == len(body)
    assert header[0] == 2


def test_stomp_becomes_stomp_of_another_broker() -> None:
    ours = forwarder(ACTIVEMQ, RABBITMQ_STOMP, headers_set={"site": "hq"})
    given = message(b"t\xc3\xa9xt", persistent="true", correlation_id="c", color="blue:\n")
    (parcel,) = ours.prepare([(1, given)], NOW).parcels
    content = stomp_content(parcel)
    assert content.body == given.body
    assert content.headers["destination"] == "/amq/queue/orders"
    assert content.headers["correlation-id"] == "c"
    assert content.headers["color"] == "blue:\n"
    assert content.headers["site"] == "hq"
    assert "message-id" not in content.headers


def test_a_value_with_line_ends_makes_no_frame() -> None:
    """Scenario 8."""
    evil = "x\n\nfoo\0\nSEND\ndestination:/queue/evil\n\n\0"
    ours = forwarder(RABBITMQ_AMQP, ACTIVEMQ)
    (parcel,) = ours.prepare([from_amqp(1, {"headers": {"a": evil, evil: "b"}})], NOW).parcels
    content = stomp_content(parcel)  # one frame, and one only
    assert content.headers["destination"] == "/queue/orders"
    assert parcel[0].count(b"\0") == 0


def test_copies_of_a_topic_go_where_they_were_sent_to_unless_they_came_far_enough() -> None:
    ours = forwarder(
        ACTIVEMQ,
        RABBITMQ_AMQP,
        None,
        network_ttl=1,
        dynamically_included=["topic://prices.>"],
        excluded=["topic://prices.test"],
    )
    batch = [
        (1, message(destination="/topic/prices.ibm")),
        (2, message(destination="/topic/prices.test")),
        (3, message(destination="/topic/prices.ibm", x_understudy_path="x/")),
    ]
    tags, parcels, *_ = ours.prepare(batch, NOW)
    assert tags == [1]
    assert amqp_route(parcels[0]) == ("amq.topic", "prices.ibm")
    assert ours.dropped == 2


def test_10_what_has_expired_is_left_out_and_counted() -> None:
    ours = forwarder(ACTIVEMQ, RABBITMQ_AMQP)
    over, still = message(expires=str(NOW - 1)), message(expires=str(NOW + 1500))
    tags, (parcel,), *_ = ours.prepare([(1, over), (2, still)], NOW)
    assert tags == [2]
    assert fields_of(parcel)["expiration"] == "1500"
    assert ours.expired == 1


def drop(message: Message) -> None:
    assert message.destination == "queue://orders"
    if message.body == b"drop":
        raise Dropped("not wanted")
    if message.body == b"park":
        raise Untranslatable("it failed")


def test_a_transformer_sees_each_message_and_may_drop_it() -> None:
    ours = forwarder(RABBITMQ_AMQP, RABBITMQ_AMQP, transformer=drop)
    batch = [from_amqp(tag, {}, body) for tag, body in enumerate((b"drop", b"park", b"go"), 1)]
    tags, parcels, aside, *_ = ours.prepare(batch, NOW)
    assert (tags, aside, ours.dropped) == ([2, 3], [2], 1)
    assert amqp_route(parcels[0]) == ("", PARKING)
    assert amqp_route(parcels[1]) == ("", "orders")


def test_the_addresses_that_are_kept_are_bounded() -> None:
    ours = forwarder(RABBITMQ_AMQP, ACTIVEMQ, None)
    for number in range(KEPT + 10):
        route = b"\x09amq.topic\x04" + b"%04d" % number
        (parcel,) = ours.prepare([from_amqp(1, {}, route=route)], NOW).parcels
        assert stomp_content(parcel).headers["destination"] == f"/topic/{number:04}"
    assert len(ours._addresses) <= KEPT


def test_an_exchange_needs_a_rename_towards_brokers_without() -> None:
    route = b"\x01X\x03key"
    ours = forwarder(RABBITMQ_AMQP, ACTIVEMQ, None)
    _, (parcel,), aside, *_ = ours.prepare([from_amqp(1, {}, route=route)], NOW)
    assert aside == [1]
    assert amqp_route(parcel) == ("", PARKING)
    renamed = forwarder(RABBITMQ_AMQP, ACTIVEMQ, None, rename={"exchange://X/>": "queue://q"})
    (parcel,) = renamed.prepare([from_amqp(1, {}, route=route)], NOW).parcels
    assert stomp_content(parcel).headers["destination"] == "/queue/q"


def test_parcels_are_taken_apart_as_they_were_put_together() -> None:
    content = AmqpContent(build({"priority": 1}), b"b" * 9000)
    parcel = amqp_parcel(encode_publish("x", "k"), content, 4096)
    assert amqp_route(parcel) == ("x", "k")
    assert amqp_content(parcel).body == content.body
    sent = stomp_parcel({"destination": "/queue/q:", "content-length": "2"}, b"\0\0")
    assert stomp_content(sent).headers == {"destination": "/queue/q:", "content-length": "2"}
    assert stomp_content(sent).body == b"\0\0"


@pytest.mark.parametrize("target", [RABBITMQ_AMQP, ACTIVEMQ], ids=lambda dialect: dialect.name)
def test_a_queues_message_past_its_limit_goes_back_in_the_sources_words(target: Dialect) -> None:
    """B09: over STOMP too, where the broker has no selectors or did not know the path."""
    fields: dict[str, Value] = {"headers": {"x-understudy-path": "c/", "f": 1.5}, "priority": 3}
    ours = forwarder(RABBITMQ_AMQP, target, network_ttl=1, headers_set={"site": "hq"})
    batch = ours.prepare([from_amqp(1, fields), from_amqp(2, {})], NOW)
    assert (batch.tags, batch.aside, batch.stays) == ([1, 2], [1], [1])
    assert amqp_route(batch.parcels[0]) == ("", "orders")
    assert fields_of(batch.parcels[0]) == fields

    ours = forwarder(ACTIVEMQ, target, network_ttl=1, headers_set={"site": "hq"})
    batch = ours.prepare([(1, message(x_understudy_path="c/", a="b"))], NOW)
    assert (batch.aside, batch.stays) == ([1], [1])
    headers = stomp_content(batch.parcels[0]).headers
    assert headers["destination"] == "/queue/orders"
    assert (headers["x-understudy-path"], headers["a"]) == ("c/", "b")
    assert "site" not in headers


def test_what_a_wildcard_brings_of_an_excluded_queue_goes_back() -> None:
    """Row 18 of the decisions: ActiveMQ leaves it in flight for ever."""

    def dialects() -> tuple[Dialect, Dialect]:
        return ACTIVEMQ, RABBITMQ_AMQP

    routes = Routes(Options(excluded=["queue://orders.test"]), "a/", "b/")
    parking = TranslatedParking("b", dialects)
    ours = TranslatingForwarder(routes, None, "queue", parking, dialects, lambda: 4096)
    headers = {"destination": "/queue/orders.test", "message-id": FROM_STOMP, "ack": "1"}
    batch = ours.prepare([(1, StompContent(headers, b"body"))], NOW)
    assert (batch.aside, batch.stays, ours.dropped) == ([1], [1], 0)
    assert stomp_content(batch.parcels[0]).headers["destination"] == "/queue/orders.test"


@pytest.mark.parametrize(
    ("hop", "target", "expected"),
    [
        ("b:a/", ARTEMIS, "b:a/:ID:1"),
        ("b:b/", ARTEMIS, "b:b/:ID:1"),  # on its way back it is another
        ("", ARTEMIS, None),
        ("b:a/", ACTIVEMQ, None),
        ("b:a/", RABBITMQ_STOMP, None),
    ],
)
def test_artemis_is_told_an_id_of_this_hop(hop: str, target: Dialect, expected: str | None) -> None:
    """Scenario 42."""
    one = forwarder(ACTIVEMQ, target)
    one.hop = hop
    told = {"message-id": "ID:1", "_AMQ_DUPL_ID": "of another hop", "destination": "/queue/orders"}
    (parcel,) = one.prepare([(1, StompContent(told, b"x"))], NOW).parcels
    theirs = "of another hop" if target is not ARTEMIS else None
    assert stomp_content(parcel).headers.get("_AMQ_DUPL_ID") == (expected or theirs)


def test_what_has_no_id_is_told_without_one() -> None:
    one = forwarder(RABBITMQ_AMQP, ARTEMIS)
    one.hop = "b:a/"
    parcels = one.prepare([from_amqp(1, {}), from_amqp(2, {"message_id": "m"})], NOW).parcels
    ids = [stomp_content(parcel).headers.get("_AMQ_DUPL_ID") for parcel in parcels]
    assert ids == [None, "b:a/:m"]


@pytest.mark.parametrize("source", [RABBITMQ_AMQP, RABBITMQ_STOMP], ids=lambda one: one.name)
def test_what_was_delivered_in_vain_too_often_goes_to_the_tail_of_its_queue(
    source: Dialect,
) -> None:
    """Scenario 31."""
    ours = forwarder(source, ACTIVEMQ)
    given = [
        from_amqp(tag, {"headers": {"a": "b", COUNT: count}})
        if source.is_amqp
        else (tag, message(b"", **{"a": "b", COUNT: str(count)}))
        for tag, count in ((1, MOST - 1), (2, MOST))
    ]
    tags, parcels, aside, stays, _ = ours.prepare(given, NOW)
    assert (tags, aside, stays) == ([1, 2], [2], [2])
    back = parcels[1][1] if source.is_amqp else parcels[1][0]
    assert COUNT.encode() not in back
    assert b"a" in back
