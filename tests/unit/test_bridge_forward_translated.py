"""From a delivery to what is sent, where one end speaks STOMP or both."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.content import AmqpContent, Dropped, StompContent, Untranslatable
from understudyd.bridge.dialects import (
    ACTIVEMQ,
    ARTEMIS,
    RABBITMQ_AMQP,
    RABBITMQ_STOMP,
    Dialect,
)
from understudyd.bridge.forward_translated import KEPT, TranslatingForwarder
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping import Message
from understudyd.bridge.names import Destination
from understudyd.bridge.parcels import (
    amqp_content,
    amqp_parcel,
    amqp_route,
    stomp_content,
    stomp_parcel,
)
from understudyd.bridge.parking_translated import DEAD_LETTER, LEFT, TranslatedParking
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.wire.bodies import body_frames
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build, read
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import Typed, Value
from understudyd.bridge.worn import COUNT, MOST

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


def test_5_what_the_target_cannot_take_is_parked_at_the_source_as_it_came() -> None:
    ours = forwarder(RABBITMQ_AMQP, RABBITMQ_STOMP)
    large = b"x" * (5 << 20)
    fields: dict[str, Value] = {"expiration": "60000", "headers": {"a": [1.5]}, "user_id": "eve"}
    batch = [from_amqp(1, {}), from_amqp(2, fields, large), from_amqp(3, {})]
    tags, parcels, aside, *_ = ours.prepare(batch, NOW)
    assert (tags, aside) == ([1, 2, 3], [2])
    parked = parcels[1]
    assert amqp_route(parked) == ("", PARKING)
    assert amqp_content(parked).body == large
    told = fields_of(parked)
    assert told == {
        "delivery_mode": 2,
        "headers": {
            "a": [1.5],
            "x-understudy-user-id": "eve",
            "x-understudy-parked-reason": "the body has 5242880 bytes; RabbitMQ over STOMP takes "
            "4128768",
            "x-understudy-parked-bridge": "b",
            "x-understudy-parked-exchange": "",
            "x-understudy-parked-routing-key": "orders",
            "x-understudy-parked-expiration": "60000",
        },
    }


def test_properties_that_cannot_be_read_are_parked_whole() -> None:
    ours = forwarder(RABBITMQ_AMQP, ACTIVEMQ)
    broken = b"\x20\0\0\0\1\0"
    _, (parcel,), aside, *_ = ours.prepare([(1, 0, AMQP_ROUTE, broken, 0, b"")], NOW)
    assert aside == [1]
    headers = fields_of(parcel)["headers"]
    assert isinstance(headers, dict)
    assert headers["x-understudy-parked-properties"] == broken


def test_a_message_of_stomp_is_parked_in_its_own_words() -> None:
    ours = forwarder(ACTIVEMQ, RABBITMQ_AMQP)
    name = "x" * 300  # longer than AMQP takes
    given = message(b"t\0", content_length="2", expires=str(NOW + 5), reply_to="/queue/r")
    given.headers[name] = "1"
    _, (parcel,), aside, *_ = ours.prepare([(7, given)], NOW)
    assert aside == [7]
    content = stomp_content(parcel)
    assert content.body == b"t\0"
    headers = content.headers
    assert headers["destination"] == f"/queue/{PARKING}"
    assert headers["persistent"] == "true"
    assert "expires" not in headers
    assert headers["reply-to"] == "/queue/r"
    assert headers[name] == "1"
    told = {n.removeprefix("x-understudy-parked-"): v for n, v in headers.items() if "parked" in n}
    assert told.pop("reason").startswith("AMQP cannot hold it")
    assert told == {
        "bridge": "b",
        "destination": "/queue/orders",
        "message-id": FROM_STOMP,
        "deadline": str(NOW + 5),
    }


def test_what_a_broker_does_not_show_is_for_its_own_dead_letters_or_stays() -> None:
    ours = forwarder(ACTIVEMQ, RABBITMQ_AMQP)
    java = "ID:h-1-2:3:1:1:1:1"
    batch = [
        (1, message(b"", message_id=java, persistent="true")),
        (2, message(b"", message_id=java)),
        (3, message(b"")),
    ]
    tags, parcels, aside, *_ = ours.prepare(batch, NOW)
    assert (tags, aside) == ([1, 2, 3], [1, 2])
    assert [parcel[0] for parcel in parcels[:2]] == [DEAD_LETTER, LEFT]
    assert b"ActiveMQ shows no content" in parcels[1][1]


@pytest.mark.parametrize("dialect", [RABBITMQ_STOMP, ARTEMIS], ids=lambda dialect: dialect.name)
def test_only_activemq_hides_anything(dialect: Dialect) -> None:
    """Elsewhere that header is an application's, and a NACK would not keep the message."""
    given = message(b"", transformation_error="x", message_id="1")
    assert forwarder(dialect, RABBITMQ_AMQP).prepare([(1, given)], NOW).aside == []


def test_notes_that_a_producer_made_up_are_not_parked() -> None:
    ours = forwarder(RABBITMQ_STOMP, RABBITMQ_AMQP)
    named = {"x-understudy-parked-exchange": "", "h" * 256: "too long for AMQP"}
    given = message(b"", **named)
    batch = ours.prepare([(1, given)], NOW)
    assert batch.aside == [1]
    parked = stomp_content(batch.parcels[0])
    assert "x-understudy-parked-reason" in parked.headers
    assert "x-understudy-parked-exchange" not in parked.headers


def test_what_the_source_would_not_take_back_stays_there() -> None:
    ours = forwarder(RABBITMQ_STOMP, ACTIVEMQ)
    header = {"destination": "/queue/orders", "content-length": str(5 << 20)}
    (parcel,) = ours.prepare([(1, StompContent(header, b"x" * (5 << 20)))], NOW).parcels
    home = TranslatedParking("b", lambda: (RABBITMQ_STOMP, ACTIVEMQ))
    left = home.park_at_source(parcel, "ERROR: no")
    assert left[0] == LEFT
    assert b"ERROR: no" in left[1]
    assert left[3] == 5 << 20


@pytest.mark.parametrize("target", STOMPS, ids=lambda dialect: dialect.name)
@given(
    st.dictionaries(
        st.text("ab:\n\\é\0", min_size=1, max_size=4),
        st.one_of(st.text("x:\n\0", max_size=4), st.floats(allow_nan=False), st.binary()),
        max_size=3,
    ),
    st.binary(max_size=9),
)
def test_what_a_stomp_target_refused_is_at_the_source_what_it_was(
    target: Dialect, headers: dict[str, Value], body: bytes
) -> None:
    """It goes home from the parcel, and its path is no longer than before."""
    ours = forwarder(RABBITMQ_AMQP, target)
    fields: dict[str, Value] = {
        "delivery_mode": 1,
        "headers": {**headers, "x-understudy-path": "z/"},
        "priority": 200,
        "timestamp": 1_700_000_000,
    }
    (parcel,) = ours.prepare([from_amqp(1, fields, body)], NOW).parcels
    parked = ours._parking.park_at_source(parcel, "ERROR: no")
    assert amqp_route(parked) == ("", PARKING)
    assert amqp_content(parked).body == body
    told = fields_of(parked)
    shown = told["headers"]
    assert isinstance(shown, dict)
    kept = {n: v for n, v in shown.items() if not n.startswith("x-understudy-parked-")}
    assert {**told, "headers": kept} == {**fields, "delivery_mode": 2}
    assert shown["x-understudy-parked-reason"] == "ERROR: no"


def test_what_an_amqp_target_refused_goes_home_to_stomp() -> None:
    ours = forwarder(ACTIVEMQ, RABBITMQ_AMQP)
    given = message(b"text", color="blue", expires=str(NOW + 5000))
    (parcel,) = ours.prepare([(1, given)], NOW).parcels
    content = stomp_content(ours._parking.park_at_source(parcel, "406 PRECONDITION_FAILED"))
    assert content.body == b"text"
    assert not content.has_length
    headers = content.headers
    assert headers["destination"] == f"/queue/{PARKING}"
    assert headers["color"] == "blue"
    assert headers["x-understudy-parked-deadline"] == str(NOW + 5000)
    assert headers["x-understudy-parked-routing-key"] == "orders"
    assert "x-understudy-path" not in headers


def test_what_comes_back_from_amqp_is_parked_there() -> None:
    ours = forwarder(ACTIVEMQ, RABBITMQ_AMQP)
    (parcel,) = ours.prepare([(1, message(color="blue"))], NOW).parcels
    parked = ours._parking.park(parcel, "312 NO_ROUTE")
    assert ours._parking.holds(parked)
    assert not ours._parking.holds(parcel)
    headers = fields_of(parked)["headers"]
    assert isinstance(headers, dict)
    assert headers["color"] == "blue"


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


@pytest.mark.parametrize("target", STOMPS, ids=lambda dialect: dialect.name)
def test_what_cannot_be_written_for_a_reason_nobody_thought_of_is_parked(target: Dialect) -> None:
    def spoil(message: Message) -> None:
        message.headers["a"] = "\ud800"

    ours = forwarder(RABBITMQ_AMQP, target, transformer=spoil)
    batch = ours.prepare([from_amqp(1, {}), from_amqp(2, {})], NOW)
    assert (batch.tags, batch.aside, batch.stays) == ([1, 2], [1, 2], [])
    told = fields_of(batch.parcels[0])["headers"]
    assert isinstance(told, dict)
    assert str(told["x-understudy-parked-reason"]).startswith(f"{target.name} cannot be told of it")


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
