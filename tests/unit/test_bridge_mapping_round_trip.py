"""Whatever a message holds, it comes back as it was, or is refused with a reason.

Between the two translations stands what a broker makes of a SEND before it shows it as a MESSAGE,
as measured on RabbitMQ 3.10.8 and ActiveMQ 5.17.2 (for Artemis as documented).
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.wire.stomp import FrameParser, encode
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.dialects import (
    ACTIVEMQ,
    ARTEMIS,
    RABBITMQ_AMQP,
    RABBITMQ_STOMP,
    Dialect,
)
from understudyd.bridge.wire import properties
from understudyd.bridge.wire.tables import Typed, Value
from understudyd.testing.translated import translate

NOW = 1_700_000_000_000
ID = "ID:h-1-2:3:-1:1:1"  # of a message that came over STOMP
ARRIVAL = "1700000000777"  # what a broker shows as the time it got a message
DIALECTS = {d.name: d for d in (RABBITMQ_AMQP, RABBITMQ_STOMP, ACTIVEMQ, ARTEMIS)}

# Half of all names are such that one form or one broker gives them a meaning.
SPECIAL = st.sampled_from(
    [
        *["", "destination", "receipt", "priority", "type", "content-length", "ack", "expires"],
        *["expiration", "user-id", "message-id", "x-death", "JMSXGroupSeq", "JMSXGroupID"],
        *["AMQ_SCHEDULED_DELAY", "timestamp", "persistent", "reply-to"],
        *["a:b", "a\nb", "\0", "body=text", " a", "é😀"],
    ]
)
BYTES = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
TEXT = st.one_of(st.text(st.sampled_from("ab:=%\\\n\r\0 é😀"), max_size=8), BYTES)
NAMES = st.one_of(SPECIAL, TEXT).filter(lambda name: name not in ("CC", "BCC"))
SHORT = TEXT.filter(lambda text: len(text.encode("utf-8", "surrogateescape")) < 256)

SCALARS: st.SearchStrategy[Value] = st.one_of(
    TEXT,
    st.booleans(),
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(),
    st.binary(max_size=8),
    st.integers(-(1 << 31), (1 << 31) - 1).map(lambda n: Decimal(n).scaleb(-3)),
    st.integers(-128, 127).map(lambda n: Typed("b", n)),
    st.integers(0, (1 << 64) - 1).map(lambda n: Typed("T", n)),
    st.floats(width=32, allow_nan=False).map(lambda n: Typed("f", n)),
    st.just(Typed("t", b"\x07")),
    st.just(Typed("l", 5)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXT.filter(bool), inner, max_size=3)
    ),
    max_leaves=6,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=4)
BODIES = st.one_of(st.binary(max_size=20), st.text(max_size=10).map(str.encode))
OCTETS = st.integers(0, 255)
CONTENT_TYPES = st.sampled_from(["text/plain", "application/json", "image/png"])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.one_of(CONTENT_TYPES, SHORT),
        "content_encoding": SHORT,
        "headers": TABLES.filter(bool),
        "delivery_mode": OCTETS,
        "priority": OCTETS,
        "correlation_id": SHORT,
        "reply_to": st.one_of(st.sampled_from(["amq.gen-x", "/queue/x", "x", ""]), SHORT),
        "message_id": SHORT,
        "timestamp": st.one_of(st.integers(0, 2_000_000_000), st.integers(0, (1 << 64) - 1)),
        "type": SHORT,
        "app_id": SHORT,
        "cluster_id": SHORT,
    },
)


def shown(sent: StompContent, dialect: Dialect) -> StompContent:
    """What a subscriber gets of a SEND; the frame went over the wire in between."""
    assert dialect.stomp is not None
    data = encode("SEND", {"destination": "/queue/x", "receipt": "1", **sent.headers}, sent.body)
    (frame,) = FrameParser().feed(data)
    assert frame.headers == {"destination": "/queue/x", "receipt": "1"} | sent.headers
    assert frame.body == sent.body
    headers = {**frame.headers, "subscription": "0", "ack": "a", "message-id": ID}
    if dialect is RABBITMQ_STOMP:
        reply = headers.get("reply-to")
        if reply is not None and not reply.startswith("/"):
            headers["reply-to"] = f"/reply-queue/{reply}"
        if not frame.body:
            headers.pop("content-length", None)
    else:
        headers = as_jms_shows(headers, dialect)
    return StompContent(headers, frame.body)


def as_jms_shows(headers: dict[str, str], dialect: Dialect) -> dict[str, str]:
    for name in ("receipt", "JMSXUserID", "JMSXGroupSeq"):
        headers.pop(name, None)
    group = headers.pop("JMSXGroupID", None)
    if dialect is ARTEMIS:
        headers["timestamp"] = ARRIVAL
        if group is not None:
            headers["_AMQ_GROUP_ID"] = group
    assert all(name for name in headers)
    return {"priority": "4", "expires": "0", "timestamp": ARRIVAL, **headers}


def raw_of(fields: dict[str, Value], body: bytes) -> AmqpContent:
    return AmqpContent(properties.build(fields), body)


def there_and_back(content: AmqpContent, dialect: Dialect) -> AmqpContent:
    there = translate(content, RABBITMQ_AMQP, dialect, NOW)
    assert isinstance(there, StompContent)
    back = translate(shown(there, dialect), dialect, RABBITMQ_AMQP, NOW)
    assert isinstance(back, AmqpContent)
    return back


@pytest.mark.parametrize("name", [RABBITMQ_STOMP.name, ACTIVEMQ.name, ARTEMIS.name])
@given(FIELDS, BODIES)
def test_amqp_through_stomp_comes_back(name: str, fields: dict[str, Value], body: bytes) -> None:
    dialect = DIALECTS[name]
    content = raw_of(fields, body)
    back = there_and_back(content, dialect)
    wanted = in_order(content)
    if dialect is not RABBITMQ_STOMP:  # its id stands in for one that nobody had given
        back_fields = properties.read(back.properties)
        if "message_id" not in fields and back_fields.get("message_id") == ID:
            back = AmqpContent(properties.patch(back.properties, {"message_id": None}), back.body)
    assert in_order(back) == wanted
    assert back.body == body


def in_order(content: AmqpContent) -> bytes:
    """The properties as bytes (NaN equals nothing), the headers in the order of their names."""
    fields = properties.read(content.properties)
    table = fields.get("headers")
    if isinstance(table, dict):
        fields["headers"] = dict(sorted(table.items()))
    return properties.build(fields)


# ActiveMQ shows no bytes that are no UTF-8, and no NUL could have come.
STRINGS = st.text(st.sampled_from("ab:=%\\\n\r é😀"), max_size=12)
STOMP_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "persistent": st.just("true"),
        "correlation-id": STRINGS,
        "reply-to": st.one_of(st.sampled_from(["/queue/x", "/topic/x", "/remote-temp-queue/ID:1"])),
        "type": STRINGS,
        "content-type": st.one_of(CONTENT_TYPES, STRINGS),
        "content-encoding": STRINGS,
        "app-id": STRINGS,
        "amqp-message-id": STRINGS,
        "JMSXGroupID": st.just("g"),
        "priority": st.integers(0, 9).map(str),
        "timestamp": st.integers(0, (1 << 63) - 1).map(str),
        "expires": st.sampled_from(["0", "1700000005000", "9223372036854775807"]),
    },
)
APPLICATIONS = st.dictionaries(
    st.text(st.sampled_from("ab:=%\\\n é"), min_size=1, max_size=4),
    STRINGS,
    max_size=3,
)


@st.composite
def sends(draw: st.DrawFn) -> StompContent:
    """A SEND by an application to ActiveMQ."""
    headers = draw(APPLICATIONS) | draw(STOMP_HEADERS)
    body = draw(BODIES)
    if b"\0" in body or draw(st.booleans()):
        headers["content-length"] = str(len(body))
    return StompContent(headers, body)


def told(content: StompContent) -> tuple[dict[str, str], bytes]:
    """What matters to a consumer: all but what is another's at each broker."""
    own = {"subscription", "ack", "message-id", "destination"}
    return {k: v for k, v in content.headers.items() if k not in own}, content.body


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(sends())
def test_stomp_comes_back_from_anywhere(name: str, sent: StompContent) -> None:
    other = DIALECTS[name]
    given_ = shown(sent, ACTIVEMQ)
    there = translate(given_, ACTIVEMQ, other, NOW)
    if isinstance(there, StompContent):
        there = shown(there, other)
    again = translate(there, other, ACTIVEMQ, NOW)
    assert isinstance(again, StompContent)
    headers, body = told(shown(again, ACTIVEMQ))
    wanted, wanted_body = told(given_)
    # The id by which a copy can be told stays with it, the group is shown by a twin.
    wanted.setdefault("amqp-message-id", ID)
    if "JMSXGroupID" in sent.headers and "x-understudy-group" in headers:
        wanted["x-understudy-group"] = "g"
    assert headers == wanted
    assert body == wanted_body
