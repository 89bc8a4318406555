"""What cannot go on is parked, or stays, where one end speaks STOMP or both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_AMQP, RABBITMQ_STOMP, Dialect
from understudyd.bridge.mapping import Message
from understudyd.bridge.parcels import amqp_content, amqp_route, stomp_content
from understudyd.bridge.parking_translated import DEAD_LETTER, LEFT, TranslatedParking
from understudyd.bridge.wire.tables import Value
from understudyd.testing.forwarding import (
    AMQP_ROUTE,
    FROM_STOMP,
    NOW,
    PARKING,
    STOMPS,
    fields_of,
    forwarder,
    from_amqp,
    message,
)


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
