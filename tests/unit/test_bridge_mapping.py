"""Messages between AMQP and STOMP: the scenarios 2, 3 and 5 to 13 of the bridges."""

from __future__ import annotations

import pytest

from understudy.wire.stomp import FrameParser, encode
from understudyd.bridge.content import AmqpContent, Expired, Hidden, StompContent, Untranslatable
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_AMQP, RABBITMQ_STOMP, Dialect
from understudyd.bridge.mapping import Message
from understudyd.bridge.wire import properties
from understudyd.bridge.wire.tables import Value
from understudyd.testing.translated import translate

NOW = 1_700_000_000_000
ID = "ID:h-1-2:3:-1:1:1"  # of a message that came over STOMP


def amqp(body: bytes = b"", **fields: Value) -> AmqpContent:
    return AmqpContent(properties.build(fields), body)


def to_stomp(content: AmqpContent, dialect: Dialect, now: int = NOW) -> StompContent:
    sent = translate(content, RABBITMQ_AMQP, dialect, now)
    assert isinstance(sent, StompContent)
    return sent


def to_amqp(content: StompContent, dialect: Dialect, now: int = NOW) -> AmqpContent:
    sent = translate(content, dialect, RABBITMQ_AMQP, now)
    assert isinstance(sent, AmqpContent)
    return sent


def fields_of(content: AmqpContent) -> dict[str, Value]:
    return properties.read(content.properties)


def message_of(**headers: str) -> dict[str, str]:
    """The headers of a MESSAGE from ActiveMQ."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"priority": "4", "expires": "0", "message-id": ID, "ack": "ID:2", **named}


def test_2_an_empty_body_keeps_its_kind() -> None:
    for headers in ({}, {"content-length": "0"}):
        there = to_amqp(StompContent(message_of() | headers, b""), ACTIVEMQ)
        again = to_stomp(there, ACTIVEMQ)
        assert again.has_length is bool(headers)
        assert again.body == b""


def test_2_an_empty_body_of_amqp_says_its_length() -> None:
    for dialect in (ACTIVEMQ, RABBITMQ_STOMP):
        assert to_stomp(amqp(), dialect).headers["content-length"] == "0"


@pytest.mark.parametrize("body", [b"a\0b", bytes(range(256)), b"x\n", b"\r\n", b"\n\n\0SEND\n"])
@pytest.mark.parametrize("dialect", [ACTIVEMQ, RABBITMQ_STOMP, ARTEMIS], ids=str)
def test_3_a_body_arrives_as_it_is(body: bytes, dialect: Dialect) -> None:
    sent = to_stomp(amqp(body, content_type="text/plain"), dialect)
    (frame,) = FrameParser().feed(encode("SEND", sent.headers, sent.body))
    assert frame.body == body
    assert to_amqp(sent, dialect).body == body


def test_5_what_the_target_does_not_take_is_refused_before_it_sees_it() -> None:
    large = bytes(5 << 20)
    with pytest.raises(Untranslatable, match=r"5242880 bytes; RabbitMQ over STOMP takes"):
        to_stomp(amqp(large), RABBITMQ_STOMP)
    assert to_stomp(amqp(large), ACTIVEMQ).body is large


def test_5_too_many_headers() -> None:
    table: dict[str, Value] = {f"h{n}": "" for n in range(1000)}
    with pytest.raises(Untranslatable, match="1002 headers; ActiveMQ takes"):
        to_stomp(amqp(headers=table), ACTIVEMQ)


def test_5_properties_that_fill_more_than_a_frame() -> None:
    with pytest.raises(Untranslatable, match="one frame"):
        to_amqp(StompContent(message_of(long="x" * 140_000), b""), ACTIVEMQ)


def test_6_values_show_as_text_and_come_back() -> None:
    table: dict[str, Value] = {
        "float": 1.75,
        "least": -(1 << 63),
        "most": (1 << 63) - 1,
        "none": None,
        "flag": True,
        "empty": {},
        "nested": {"list": [1, "b", None, {"x": 2.5}]},
        "raw": b"\xff",
    }
    for dialect in (ACTIVEMQ, RABBITMQ_STOMP, ARTEMIS):
        sent = to_stomp(amqp(headers=table), dialect)
        assert sent.headers["float"] == "1.75"
        assert sent.headers["flag"] == "true"
        assert sent.headers["nested"] == '{"list":[1,"b",null,{"x":2.5}]}'
        assert fields_of(to_amqp(sent, dialect))["headers"] == table


def test_6_a_header_longer_than_a_line_goes_in_pieces() -> None:
    table: dict[str, Value] = {"long": "é:" * 30_000}
    sent = to_stomp(amqp(headers=table), ACTIVEMQ)
    lines = encode("SEND", sent.headers, b"").split(b"\n")
    assert max(map(len, lines)) < 10_240  # what ActiveMQ takes
    assert fields_of(to_amqp(sent, ACTIVEMQ))["headers"] == table


def test_6_what_went_in_over_stomp_and_out_over_amqp_is_restored_too() -> None:
    table: dict[str, Value] = {"flag": True, "priority": "high", "CC": "x", "n": 1}
    sent = to_stomp(amqp(headers=table), RABBITMQ_STOMP)
    stored: dict[str, Value] = {**sent.headers}  # as RabbitMQ gives it to consumers of AMQP
    del stored["content-length"]
    read = translate(amqp(headers=stored), RABBITMQ_AMQP, RABBITMQ_AMQP, NOW)
    assert isinstance(read, AmqpContent)
    del table["CC"]
    assert fields_of(read)["headers"] == table | {"x-understudy-cc": "x"}


def test_6_a_value_that_an_application_changed_is_not_changed_back() -> None:
    sent = to_stomp(amqp(headers={"tries": 1, "list": [1]}), ACTIVEMQ)
    sent.headers |= {"tries": "2", "list": "none"}
    assert fields_of(to_amqp(sent, ACTIVEMQ))["headers"] == {"tries": 2, "list": "none"}


def test_7_a_timestamp_beyond_the_year_9999_crosses() -> None:
    content = amqp(timestamp=1_700_000_000_123)  # milliseconds where AMQP means seconds
    for dialect in (ACTIVEMQ, RABBITMQ_STOMP, ARTEMIS):
        assert fields_of(to_amqp(to_stomp(content, dialect), dialect)) == fields_of(content)


def test_8_no_value_makes_a_frame() -> None:
    evil = "\n\nfoo\0SEND\ndestination:/queue/other\n\n\0"
    content = amqp(b"b", correlation_id=evil, type=evil, headers={"x": evil, evil: evil, "": ":"})
    for dialect in (ACTIVEMQ, RABBITMQ_STOMP, ARTEMIS):
        sent = to_stomp(content, dialect)
        (frame,) = FrameParser().feed(encode("SEND", sent.headers, sent.body))
        assert frame.headers == sent.headers
        assert "" not in frame.headers  # ActiveMQ would read no further
        assert fields_of(to_amqp(sent, dialect)) == fields_of(content)


@pytest.mark.parametrize(
    "name", ["destination", "receipt", "content-length", "priority", "expires"]
)
def test_8_a_header_is_not_taken_for_the_brokers_own(name: str) -> None:
    sent = to_stomp(amqp(headers={name: "evil"}), ACTIVEMQ)
    assert sent.headers.get(name) != "evil"
    assert sent.headers["x-understudy-headers"] == f"{name}=evil"


@pytest.mark.parametrize(
    ("given", "jms", "rabbit"),
    [(None, None, None), (0, "0", "0"), (4, None, "4"), (9, "9", "9"), (255, "9", "255")],
)
def test_9_priorities(given: int | None, jms: str | None, rabbit: str | None) -> None:
    content = amqp(priority=given)
    for dialect, wanted in ((ACTIVEMQ, jms), (ARTEMIS, jms), (RABBITMQ_STOMP, rabbit)):
        sent = to_stomp(content, dialect)
        assert sent.headers.get("priority") == wanted
        if dialect is not RABBITMQ_STOMP:
            sent.headers.setdefault("priority", "4")  # as these brokers show it
        assert fields_of(to_amqp(sent, dialect)).get("priority") == given


def test_9_a_priority_that_was_changed_on_the_way_stays_changed() -> None:
    sent = to_stomp(amqp(priority=255), ACTIVEMQ)
    sent.headers["priority"] = "2"
    assert fields_of(to_amqp(sent, ACTIVEMQ))["priority"] == 2


def test_10_time_spent_at_the_first_bridge_is_not_given_again() -> None:
    there = to_amqp(StompContent(message_of(expires=str(NOW + 5000)), b""), ACTIVEMQ)
    assert fields_of(there)["expiration"] == "5000"
    later = to_stomp(there, ACTIVEMQ, NOW + 3000)  # after 3 s in a queue of RabbitMQ
    assert later.headers["expires"] == str(NOW + 5000)
    assert "x-understudy-deadline" not in later.headers


def test_10_without_a_bridge_before_the_timestamp_tells() -> None:
    content = amqp(expiration="5000", timestamp=NOW // 1000)
    sent = to_stomp(content, RABBITMQ_STOMP, NOW + 3000)
    assert sent.headers["expiration"] == "3000"  # 2 s and the second a timestamp is cut to
    assert to_stomp(amqp(expiration="5000"), RABBITMQ_STOMP).headers["expiration"] == "5000"


def test_10_a_timestamp_that_cannot_be_the_time_of_publishing_tells_nothing() -> None:
    for stamp in (0, NOW // 1000 + 60, NOW):
        sent = to_stomp(amqp(expiration="5000", timestamp=stamp), RABBITMQ_STOMP)
        assert sent.headers["expiration"] == "5000"


def test_10_a_copy_with_another_expiration_is_not_cut_short() -> None:
    old = {"x-understudy-deadline": f"{NOW - 9000} 5000"}
    sent = to_stomp(amqp(expiration="7000", headers=dict(old)), RABBITMQ_STOMP)
    assert sent.headers["expiration"] == "7000"


def test_10_what_has_expired_is_not_sent() -> None:
    message = StompContent(message_of(expires=str(NOW + 5000)), b"")
    with pytest.raises(Expired):
        to_amqp(message, ACTIVEMQ, NOW + 5001)


@pytest.mark.parametrize("expires", ["0", "-5", "", "abc"])
def test_11_what_is_no_time_is_never(expires: str) -> None:
    sent = to_amqp(StompContent(message_of(expires=expires), b""), ACTIVEMQ)
    assert "expiration" not in fields_of(sent)


def test_11_what_rabbitmq_refuses_as_too_far_is_kept_for_later() -> None:
    far = str((1 << 63) - 1)
    sent = to_amqp(StompContent(message_of(expires=far), b""), ACTIVEMQ)
    assert "expiration" not in fields_of(sent)
    assert to_stomp(sent, ACTIVEMQ).headers["expires"] == far


def test_11_a_deadline_beyond_64_bits_is_none() -> None:
    header = "9999999999999999999 -"
    sent = to_stomp(amqp(headers={"x-understudy-deadline": header}), ACTIVEMQ)
    assert "expires" not in sent.headers


def test_11_an_expiration_that_is_no_number_is_kept_aside() -> None:
    sent = to_stomp(amqp(expiration="soon"), ACTIVEMQ)
    assert "expires" not in sent.headers
    assert sent.headers["x-understudy-expiration"] == "soon"


def test_12_properties_go_by_their_names() -> None:
    ids: dict[str, Value] = {"correlation_id": "c", "reply_to": "answers", "message_id": "m"}
    kinds: dict[str, Value] = {"content_type": "text/csv", "content_encoding": "gzip", "type": "t"}
    raw = properties.build({"delivery_mode": 2, "app_id": "a", **ids, **kinds})
    content = AmqpContent(raw, b"")
    sent = to_stomp(content, ACTIVEMQ)
    wanted = {
        "content-type": "text/csv",
        "content-encoding": "gzip",
        "correlation-id": "c",
        "reply-to": "/queue/answers",
        "amqp-message-id": "m",
        "type": "t",
        "app-id": "a",
        "persistent": "true",
    }
    assert sent.headers.items() >= wanted.items()
    assert to_stomp(content, RABBITMQ_STOMP).headers["reply-to"] == "answers"


@pytest.mark.parametrize("dialect", [ACTIVEMQ, ARTEMIS, RABBITMQ_STOMP, RABBITMQ_AMQP], ids=str)
def test_12_the_user_of_another_broker_is_told_and_never_set(dialect: Dialect) -> None:
    sent = translate(amqp(user_id="alice"), RABBITMQ_AMQP, dialect, NOW)
    if isinstance(sent, StompContent):
        assert sent.headers["x-understudy-user-id"] == "alice"
        assert not {"user-id", "JMSXUserID"} & sent.headers.keys()
    else:
        assert fields_of(sent) == {"headers": {"x-understudy-user-id": "alice"}}


def test_12_a_property_too_long_for_amqp_waits_in_the_sidecar() -> None:
    # RabbitMQ's STOMP would take it, and no consumer could get the message any more.
    long = "é" * 200
    content = StompContent(message_of(correlation_id=long), b"")
    for other in (RABBITMQ_AMQP, RABBITMQ_STOMP):
        there = translate(content, ACTIVEMQ, other, NOW)
        if isinstance(there, StompContent):
            assert "correlation-id" not in there.headers
        again = translate(there, other, ACTIVEMQ, NOW)
        assert isinstance(again, StompContent)
        assert again.headers["correlation-id"] == long


@pytest.mark.parametrize("reply", ["amq.gen-x", "amq.rabbitmq.reply-to.g1", "/temp-queue/x"])
def test_12_a_private_reply_address_is_kept_but_not_set_elsewhere(reply: str) -> None:
    sent = to_stomp(amqp(reply_to=reply), ACTIVEMQ)
    assert "reply-to" not in sent.headers
    assert fields_of(to_amqp(sent, ACTIVEMQ))["reply_to"] == reply


def test_12_a_reply_address_of_activemq_is_the_queue_in_amqp() -> None:
    sent = to_amqp(StompContent(message_of(reply_to="/queue/answers"), b""), ACTIVEMQ)
    assert fields_of(sent)["reply_to"] == "answers"
    private = "/remote-temp-queue/ID:x"
    there = to_amqp(StompContent(message_of(reply_to=private), b""), ACTIVEMQ)
    assert to_stomp(there, ACTIVEMQ).headers["reply-to"] == private


def test_13_a_text_message_stays_text() -> None:
    body = "grüße 😀".encode()
    there = to_amqp(StompContent(message_of(), body), ACTIVEMQ)
    assert fields_of(there)["content_type"] == "text/plain; charset=utf-8"
    for dialect in (ACTIVEMQ, ARTEMIS):
        again = to_stomp(there, dialect)
        assert not again.has_length
        assert "content-type" not in again.headers
        assert again.body == body


@pytest.mark.parametrize(
    ("content_type", "body", "is_text"),
    [
        ("text/plain", b"a", True),
        ("application/json; charset=utf-8", b"{}", True),
        ("application/vnd.api+json", b"{}", True),
        ("application/atom+xml", b"<a/>", True),
        ("text/plain", b"\xff", False),
        ("text/plain", b"a\0", False),
        ("application/octet-stream", b"a", False),
        (None, b"a", False),
    ],
)
def test_what_amqp_calls_text_is_text_where_it_can_be(
    content_type: str | None, body: bytes, is_text: bool
) -> None:
    sent = to_stomp(amqp(body, content_type=content_type), ACTIVEMQ)
    assert sent.has_length is not is_text


def test_carbon_copies_get_no_second_copy() -> None:
    content = amqp(headers={"CC": ["other"], "x-understudy-cc": "older"})
    sent = translate(content, RABBITMQ_AMQP, RABBITMQ_AMQP, NOW)
    assert isinstance(sent, AmqpContent)
    assert fields_of(sent) == {"headers": {"x-understudy-cc": ["other"]}}
    assert "CC" not in to_stomp(content, RABBITMQ_STOMP).headers


def test_a_delayed_message_is_not_delayed_again() -> None:
    delayed = StompContent(message_of(AMQ_SCHEDULED_DELAY="5") | {"AMQ_SCHEDULED_DELAY": "5"}, b"")
    sent = translate(delayed, ACTIVEMQ, ACTIVEMQ, NOW)
    assert isinstance(sent, StompContent)
    assert "AMQ_SCHEDULED_DELAY" not in sent.headers
    assert sent.headers["x-understudy-headers"] == "AMQ_SCHEDULED_DELAY=5"


def test_a_group_is_found_where_the_broker_shows_it() -> None:
    sent = to_stomp(amqp(headers={"JMSXGroupID": "g"}), ACTIVEMQ)
    assert sent.headers["x-understudy-group"] == "g"
    del sent.headers["JMSXGroupID"]  # ActiveMQ takes it out
    assert fields_of(to_amqp(sent, ACTIVEMQ))["headers"] == {"JMSXGroupID": "g"}
    shown = StompContent({"_AMQ_GROUP_ID": "g"}, b"")
    assert to_stomp(to_amqp(shown, ARTEMIS), ACTIVEMQ).headers["JMSXGroupID"] == "g"


def test_the_path_has_a_twin_for_selectors() -> None:
    def path(message: Message) -> None:
        message.headers["x-understudy-path"] = "a,b"

    sent = translate(amqp(), RABBITMQ_AMQP, ACTIVEMQ, NOW, path)
    assert isinstance(sent, StompContent)
    assert sent.headers["x_understudy_path"] == sent.headers["x-understudy-path"] == "a,b"
    assert fields_of(to_amqp(sent, ACTIVEMQ))["headers"] == {"x-understudy-path": "a,b"}


def test_what_a_broker_could_not_show_is_untranslatable() -> None:
    failed = StompContent(message_of(transformation_error="no jar"), b"")
    with pytest.raises(Hidden, match="ActiveMQ shows no content"):
        to_amqp(failed, ACTIVEMQ)
    with pytest.raises(Untranslatable, match="cannot be read"):
        to_stomp(AmqpContent(b"\xff", b""), ACTIVEMQ)
    twice = b"\x20\0\0\0\0\x10" + b"\x01aS\0\0\0\x011" * 2
    with pytest.raises(Untranslatable, match="twice"):
        to_stomp(AmqpContent(twice, b""), ACTIVEMQ)


def test_an_empty_text_of_java_may_be_a_map() -> None:
    """Not to be told from one; what STOMP has sent is text, and what has a length is bytes."""
    java = message_of(message_id="ID:h-1-2:3:1:1:1:1")
    with pytest.raises(Hidden):
        to_amqp(StompContent(java, b""), ACTIVEMQ)
    for headers, body in ((message_of(), b""), (java | {"content-length": "0"}, b""), (java, b"x")):
        assert to_amqp(StompContent(headers, body), ACTIVEMQ).body == body


def test_a_name_too_long_for_amqp_is_untranslatable() -> None:
    with pytest.raises(Untranslatable, match="255"):
        to_amqp(StompContent({"x" * 256: ""}, b""), ACTIVEMQ)


def test_in_doubt_a_message_is_persistent() -> None:
    # RabbitMQ shows a header `persistent` of the application before its own.
    sent = to_amqp(StompContent({"persistent": "evil"}, b""), RABBITMQ_STOMP)
    assert fields_of(sent)["delivery_mode"] == 2
    assert fields_of(to_amqp(StompContent({"persistent": "1"}, b""), RABBITMQ_STOMP)) == {
        "delivery_mode": 1
    }


def test_a_message_made_persistent_on_the_way_stays_so() -> None:
    sent = to_stomp(amqp(delivery_mode=1), ACTIVEMQ)
    assert fields_of(to_amqp(sent, ACTIVEMQ))["delivery_mode"] == 1
    sent.headers["persistent"] = "true"
    assert fields_of(to_amqp(sent, ACTIVEMQ))["delivery_mode"] == 2
