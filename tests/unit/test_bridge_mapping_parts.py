"""The parts of the mapping: values as text, pairs, times to live, relaying between ends of AMQP."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.content import AmqpContent, Expired, StompContent, Untranslatable
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_AMQP, RABBITMQ_STOMP
from understudyd.bridge.mapping import relay
from understudyd.bridge.mapping.fields import read_fields, write_fields
from understudyd.bridge.mapping.java_text import from_java, to_java
from understudyd.bridge.mapping.pairs import from_pairs, to_pairs
from understudyd.bridge.mapping.times import deadline_header, deadline_of, expiration_of, remaining
from understudyd.bridge.mapping.values import from_text, to_text
from understudyd.bridge.wire import properties
from understudyd.bridge.wire.tables import Typed, Value, encode_value
from understudyd.testing.translated import translate

NOW = 1_700_000_000_000
MIXED = b"\xed\xa0\xbd\xed\xb8\x80" + "😀".encode()  # one of each form
SOME_TEXT = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
KINDS = st.text(st.sampled_from("tbBsuIilLUTfdDSxVFA*"), max_size=5)


@pytest.mark.parametrize(
    ("value", "text", "kinds"),
    [
        ("a", "a", "S"),
        (5, "5", "I"),
        (1 << 40, "1099511627776", "l"),
        (Typed("l", 5), "5", "l"),
        (True, "true", "t"),
        (None, "", "V"),
        (1.75, "1.75", "d"),
        (Typed("f", 0.5), "0.5", "f"),
        (Decimal("1.750"), "1.750", "D"),
        (Typed("T", 1 << 60), "1152921504606846976", "T"),
        (b"\xff", "/w==", "x"),
        (Typed("t", b"\x07"), "Bw==", "*t"),
        (float("inf"), "f/AAAAAAAAA=", "*d"),
        ([], "[]", "A"),
        ({"é": [1, {"a": "b"}, None]}, '{"é":[1,{"a":"b"},null]}', "FAIFSV"),
    ],
)
def test_a_value_as_text(value: Value, text: str, kinds: str) -> None:
    assert to_text(value) == (text, kinds)
    assert encode_value(from_text(text, kinds)) == encode_value(value)


@given(SOME_TEXT, KINDS)
def test_a_text_is_a_value_only_when_that_is_written_so(text: str, kinds: str) -> None:
    try:
        value = from_text(text, kinds)
    except ValueError:
        return
    assert to_text(value) == (text, kinds)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        *[("007", "I"), ("1e3", "I"), ("5", "t"), ("true", "I"), ("99999999999", "I")],
        *[("[1]", "AS"), ("[1]", "AII"), ("[" * 5000, "A" * 5000), ("9" * 5000, "l")],
        *[("x", "?"), ("1", "V"), ("", "")],
    ],
)
def test_a_text_that_does_not_fit_its_kinds_is_no_value(text: str, kinds: str) -> None:
    with pytest.raises(ValueError, match="no value of the kinds"):
        from_text(text, kinds)


@given(st.dictionaries(SOME_TEXT, SOME_TEXT, max_size=4))
def test_pairs_come_back_and_pass_any_broker(values: dict[str, str]) -> None:
    text = to_pairs(values)
    assert from_pairs(text) == values
    assert all("!" <= char <= "~" and char not in ":\\" for char in text.replace(" ", ""))


def test_what_is_no_pair_is_left_out() -> None:
    assert from_pairs("a=1 b  c==2 %zz") == {"a": "1", "c": "=2"}
    assert from_pairs("") == {}


@given(st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_deadline_stays_over_hops(left: int, first: int, second: int) -> None:
    """However long a message rests in each broker, it lives no longer in all."""
    deadline = deadline_of(str(left), None, None, NOW)
    assert deadline == NOW + left
    now = NOW + first
    if now > deadline:
        with pytest.raises(Expired):
            remaining(deadline, now)
        return
    expiration = remaining(deadline, now)
    header = deadline_header(deadline, expiration)
    assert deadline_of(str(expiration), header, None, now + second) == deadline
    assert deadline_of(None, header, None, now) is None  # its expiration was taken off


@given(st.integers(0, 10**8), st.integers(-(10**8), 10**8))
def test_a_timestamp_never_lengthens_a_life(left: int, age: int) -> None:
    deadline = deadline_of(str(left), None, NOW - age, NOW)
    assert deadline is not None
    assert NOW <= deadline <= NOW + left


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", " 5", "9" * 19])
def test_what_rabbitmq_refuses_is_no_expiration(text: str) -> None:
    assert expiration_of(text) is None


def test_a_message_may_expire_at_once_and_not_before() -> None:
    assert remaining(NOW, NOW) == 0
    assert deadline_of("0", None, None, NOW) == NOW


@given(st.binary(max_size=40))
def test_any_bytes_are_properties_or_refused(raw: bytes) -> None:
    try:
        texts, numbers, table = read_fields(raw)
    except ValueError:
        return
    fields = raw[0] << 8 | raw[1]
    has_low_flags_or_no_headers = fields & 3 or (fields & 0x2000 and not table)
    assert write_fields(texts, numbers, table) == raw or has_low_flags_or_no_headers


def raw_of(**fields: Value) -> bytes:
    return properties.build(fields)


def test_between_ends_of_amqp_nothing_changes() -> None:
    raw = raw_of(headers={"x-death": [{"count": 1}], "f": 1.75}, timestamp=1 << 50)
    assert relay(raw, NOW) is raw
    assert relay(b"\0\0", NOW) == b"\0\0"
    looks_like_it = raw_of(headers={"f": 1.75}, app_id="CC")
    assert relay(looks_like_it, NOW) == looks_like_it


def test_no_copy_has_the_headers_of_a_stomp_frame() -> None:
    """RabbitMQ leaves them on what came over STOMP, so also on what we gave back there."""
    ours: dict[str, Value] = {"a": "b", "x-understudy-path": "one"}
    raw = raw_of(headers={**ours, "receipt": "123", "content-length": "2"}, priority=3)
    assert properties.read(relay(raw, NOW)) == {"headers": ours, "priority": 3}
    target = translate(AmqpContent(raw, b"xy"), RABBITMQ_AMQP, ACTIVEMQ, NOW)
    assert isinstance(target, StompContent)
    assert not {"receipt", "x-understudy-headers"} & target.headers.keys()


@pytest.mark.parametrize(
    "headers",
    [
        {"receipt": "123"},
        {"content-length": "2"},
        {"receipt": 123, "content-length": "2"},
        {"receipt": "123", "content-length": 2},
        {"receipt": "for you", "content-length": "long"},
    ],
)
def test_an_applications_own_headers_of_these_names_go_on(headers: dict[str, Value]) -> None:
    raw = raw_of(headers=headers)
    assert relay(raw, NOW) is raw
    there = translate(AmqpContent(raw, b"xy"), RABBITMQ_AMQP, ACTIVEMQ, NOW)
    back = translate(there, ACTIVEMQ, RABBITMQ_AMQP, NOW)
    assert isinstance(back, AmqpContent)
    assert properties.read(back.properties)["headers"] == headers


def test_but_for_the_user_the_copies_and_the_time_to_live() -> None:
    headers: dict[str, Value] = {"CC": ["x"], "f": Typed("f", 0.5), "BCC": ["y"]}
    raw = raw_of(headers=headers, user_id="alice", expiration="5000", timestamp=NOW // 1000 - 3)
    assert properties.read(relay(raw, NOW)) == {
        "headers": {
            "x-understudy-cc": ["x"],
            "f": Typed("f", 0.5),
            "x-understudy-bcc": ["y"],
            "x-understudy-user-id": "alice",
            "x-understudy-deadline": f"{NOW + 3000} 3000",
        },
        "timestamp": NOW // 1000 - 3,
        "expiration": "3000",
    }


def test_the_next_bridge_counts_on_from_the_deadline() -> None:
    first = relay(raw_of(expiration="5000", user_id="alice"), NOW)
    second = relay(properties.patch(first, {"user_id": "bridge"}), NOW + 4000)
    assert properties.read(second) == {
        "headers": {
            "x-understudy-user-id": "alice",
            "x-understudy-deadline": f"{NOW + 5000} 1000",
        },
        "expiration": "1000",
    }
    with pytest.raises(Expired):
        relay(second, NOW + 6000)


def test_an_expiration_that_no_broker_takes_is_kept_aside() -> None:
    headers = properties.read(relay(raw_of(expiration="soon"), NOW))
    assert headers == {"headers": {"x-understudy-expiration": "soon"}}


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_relaying_and_translating_say_the_same(left: int, user: bool, copies: bool) -> None:
    raw = raw_of(
        expiration=str(left),
        user_id="u" if user else None,
        headers={"CC": ["x"]} if copies else {"a": 1},
    )
    slow = translate(AmqpContent(raw, b""), RABBITMQ_AMQP, RABBITMQ_AMQP, NOW)
    assert isinstance(slow, AmqpContent)
    fast = properties.read(relay(raw, NOW))
    assert json.dumps(fast, sort_keys=True) == json.dumps(
        properties.read(slow.properties), sort_keys=True
    )


def test_what_cannot_be_read_is_untranslatable() -> None:
    with pytest.raises(Untranslatable, match="cannot be changed"):
        relay(raw_of(expiration="5")[:-1], NOW)
    with pytest.raises(Untranslatable, match="cannot be changed"):
        relay(b"", NOW)


@given(st.text(max_size=8))
def test_text_as_java_writes_it_comes_back(text: str) -> None:
    body = text.encode()
    java = to_java(body)
    assert b"\0" not in java
    assert (from_java(java) or java) == body


@pytest.mark.parametrize(
    "body", [b"a", "é€\ud7ff".encode(), "😀".encode(), b"\xed", b"\xed\xa0\xbd"]
)
def test_what_java_did_not_write_is_left_alone(body: bytes) -> None:
    assert from_java(body) is None


def test_how_java_writes() -> None:
    assert to_java("a\0😀".encode()) == b"a\xc0\x80\xed\xa0\xbd\xed\xb8\x80"


def test_13_text_of_java_is_utf8_elsewhere_and_java_reads_it_again() -> None:
    java, plain = b"a\xed\xa0\xbd\xed\xb8\x80\xc0\x80", "a😀\0".encode()
    shown = StompContent({"ack": "1"}, java)
    for other in (RABBITMQ_AMQP, RABBITMQ_STOMP, ARTEMIS):
        there = translate(shown, ACTIVEMQ, other, NOW)
        assert there.body == plain
        again = translate(there, other, ACTIVEMQ, NOW)
        assert isinstance(again, StompContent)
        assert (again.body, again.has_length) == (java, False)
        assert "content-type" not in again.headers
    same = translate(shown, ACTIVEMQ, ACTIVEMQ, NOW)
    assert same.body == java


def test_13_a_body_that_is_no_text_of_java_any_more_goes_as_bytes() -> None:
    there = translate(StompContent({}, b"\xc0\x80"), ACTIVEMQ, RABBITMQ_AMQP, NOW)
    assert isinstance(there, AmqpContent)
    there = AmqpContent(there.properties, b"\xff")
    again = translate(there, RABBITMQ_AMQP, ACTIVEMQ, NOW)
    assert isinstance(again, StompContent)
    assert (again.body, again.has_length) == (b"\xff", True)
