"""The AMQP data plane without a socket: any pieces give the same, and any bytes are survived."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.wire.amqp import Closed, Login, Opened, Session
from understudyd.bridge.wire.bodies import body_frames, content_header, join_body
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import (
    HEARTBEAT,
    Method,
    decode_arguments,
    encode_frame,
    encode_method,
    encode_publish,
    split_route,
)
from understudyd.bridge.wire.reader import (
    Arrived,
    Confirms,
    Deliveries,
    Event,
    FrameReader,
    Returned,
    Told,
)
from understudyd.bridge.wire.tables import Table

SERVER: Table = {"product": "RabbitMQ", "capabilities": {"consumer_priorities": True}}
FRAME_MAX = 4096


def deliver(
    tag: int, body: bytes, *, key: str = "orders", redelivered: int = 0, ctag: str = "c"
) -> bytes:
    return (
        encode_method(Method.BASIC_DELIVER, ctag, tag, redelivered, "", key)
        + content_header(b"\x10\0\2", len(body))
        + body_frames(body, FRAME_MAX)
    )


def returned(body: bytes) -> bytes:
    return (
        encode_method(Method.BASIC_RETURN, 312, "NO_ROUTE", "", "orders")
        + content_header(b"\0\0", len(body))
        + body_frames(body, FRAME_MAX)
    )


def ack(tag: int, multiple: int = 0) -> bytes:
    return encode_method(Method.BASIC_ACK, tag, multiple)


def nack(tag: int, multiple: int = 0) -> bytes:
    return encode_method(Method.BASIC_NACK, tag, multiple)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def flat(events: list[Event]) -> list[object]:
    """One list, whatever pieces it came in."""
    items: list[object] = []
    for event in events:
        if isinstance(event, (Deliveries, Confirms)):
            items += event.items
        else:
            items.append(event)
    return items


def fed(parts: list[bytes]) -> list[object]:
    reader = FrameReader()
    reader.frame_max = FRAME_MAX
    return flat([event for part in parts for event in reader.feed(part)])


BODIES = st.one_of(st.binary(max_size=30), st.integers(4000, 13000).map(lambda n: b"\xce" * n))
FRAMES = st.one_of(
    st.builds(
        deliver,
        st.integers(1, (1 << 64) - 1),
        BODIES,
        key=st.text(max_size=10),
        redelivered=st.integers(0, 1),
        ctag=st.text(max_size=10),
    ),
    st.builds(returned, BODIES),
    st.builds(ack, st.integers(0, 99), st.integers(0, 1)),
    st.builds(nack, st.integers(0, 99), st.integers(0, 1)),
    st.just(HEARTBEAT),
    st.just(encode_method(Method.CONNECTION_BLOCKED, "low on memory", channel=0)),
    st.just(encode_method(Method.BASIC_CANCEL, "c", 1)),
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(min_value=0), max_size=12))
def test_whole_and_in_any_pieces_is_the_same(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    one_by_one = fed(frames)
    assert fed([data]) == one_by_one
    assert fed(pieces(data, cuts)) == one_by_one


@given(st.lists(FRAMES, min_size=1, max_size=3))
def test_byte_by_byte_is_the_same(frames: list[bytes]) -> None:
    data = b"".join(frames)[:3000]
    assert fed([data[at : at + 1] for at in range(len(data))]) == fed([data])


@given(
    st.lists(FRAMES, max_size=4),
    st.lists(st.tuples(st.integers(min_value=0), st.binary(max_size=4)), max_size=4),
    st.lists(st.integers(min_value=0), max_size=3),
)
def test_any_damage_gives_events_a_wait_or_the_one_error(
    frames: list[bytes], damage: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(frames)
    for place, junk in damage:
        at = place % (len(data) + 1)
        data = data[:at] + junk + data[at + len(junk) :]
    ways = []
    for parts in ([data], pieces(data, cuts)):
        reader = FrameReader(max_body=20_000)
        reader.frame_max = FRAME_MAX
        events: list[Event] = []
        failed = False
        try:
            for part in parts:
                events += reader.feed(part)
        except WireError:
            failed = True
        ways.append((failed, flat(events)))
    (whole_failed, whole), (cut_failed, cut) = ways
    assert whole_failed == cut_failed
    assert whole_failed or whole == cut


@given(st.binary(max_size=80))
def test_any_bytes_give_events_a_wait_or_the_one_error(data: bytes) -> None:
    session = Session(Login())
    try:
        session.feed(data)
    except WireError:
        return
    session.take()


def test_a_delivery_is_raw() -> None:
    (batch,) = FrameReader().feed(deliver(7, b"x" * 9000, key="a.b", redelivered=1) + ack(1)[:9])
    assert isinstance(batch, Deliveries)
    ((tag, redelivered, route, properties, size, frames),) = batch.items
    assert (tag, redelivered, properties, size) == (7, 1, b"\x10\0\2", 9000)
    assert split_route(route) == ("", "a.b")
    assert frames == body_frames(b"x" * 9000, FRAME_MAX)
    assert join_body(frames) == b"x" * 9000


def test_what_one_read_brought_is_one_batch() -> None:
    stream = b"".join(deliver(tag, b"body") for tag in range(1, 51))
    (batch,) = FrameReader().feed(stream)
    assert isinstance(batch, Deliveries)
    assert [item[0] for item in batch.items] == list(range(1, 51))
    mixed = ack(1) + nack(2, 1) + returned(b"x") + ack(3)
    first, back, second = FrameReader().feed(mixed)
    assert first == Confirms([(1, 0, True), (2, 1, False)])
    assert isinstance(back, Returned)
    assert (back.code, back.routing_key, join_body(back.frames)) == (312, "orders", b"x")
    assert second == Confirms([(3, 0, True)])


def test_words_about_the_connection_may_come_amid_a_body() -> None:
    stream = deliver(1, b"x" * 9000)
    first_body = stream.index(b"x") - 7
    blocked = encode_method(Method.CONNECTION_BLOCKED, "disk", channel=0)
    events = FrameReader().feed(stream[:first_body] + blocked + HEARTBEAT + stream[first_body:])
    assert events[:2] == [Told(Method.CONNECTION_BLOCKED, 0, ("disk",)), Arrived()]
    assert isinstance(events[2], Deliveries)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak AMQP"),
        (b"AMQP\0\1\0\0", r"offers 0\.1\.0\.0"),
        (encode_frame(1, 1, b"\0\x3c\0\x3c\5ab"), "within its arguments"),
        (encode_frame(2, 1, bytes(14)), "belongs to no method"),
        (encode_frame(3, 1, b"x"), "more body"),
        (encode_frame(1, 1, b"\0\x3c\0\x50" + bytes(3)), "wrong size"),
        (encode_frame(1, 1, b"\0\x63\0\x01"), "was not expected"),
        (encode_frame(8, 1, b""), "frame of type 8"),
        (HEARTBEAT[:-1] + b"\0", "without its end"),
        (deliver(1, b"ab")[:-10] + ack(1), "amid the content"),
        (struct.pack(">BHI", 1, 1, 1 << 31) + b"x", "at most 131072"),
        (content_header(b"\0\0", 1 << 40), "belongs to no method"),
        (deliver(1, b"")[:-23] + content_header(b"\0\0", 1 << 40), "the limit is"),
    ],
)
def test_what_breaks_the_protocol_is_named(data: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        FrameReader().feed(data)


def test_memory_is_bounded_by_what_was_agreed() -> None:
    reader = FrameReader(max_body=1000)
    head = deliver(1, b"")[: -len(content_header(b"\x10\0\2", 0))]
    reader.feed(head + content_header(b"\0\0", 1000))
    for _ in range(10):
        reader.feed(encode_frame(3, 1, b""))  # frames of nothing are not kept
    reader.feed(encode_frame(3, 1, b"x" * 600))
    with pytest.raises(WireError, match="more body"):
        reader.feed(encode_frame(3, 1, b"x" * 600))


def arguments_of(frame: bytes) -> tuple[int, list[Any]]:
    (method,) = struct.unpack_from(">I", frame, 7)
    return method, decode_arguments(method, frame[7:-1])


def frames_of(data: bytes) -> list[bytes]:
    found = []
    while data:
        end = 8 + struct.unpack_from(">I", data, 3)[0]
        found.append(data[:end])
        data = data[end:]
    return found


def start(mechanisms: bytes = b"PLAIN EXTERNAL") -> bytes:
    return encode_method(Method.CONNECTION_START, 0, 9, SERVER, mechanisms, b"en_US", channel=0)


def tune(channels: int = 2047, frame_max: int = 131072, heartbeat: int = 60) -> bytes:
    return encode_method(Method.CONNECTION_TUNE, channels, frame_max, heartbeat, channel=0)


def opened(session: Session, tuned: bytes = b"") -> Opened:
    session.begin()
    session.feed(start())
    session.feed(tuned or tune())
    session.feed(encode_method(Method.CONNECTION_OPEN_OK, "", channel=0))
    (event,) = session.feed(encode_method(Method.CHANNEL_OPEN_OK, b""))
    session.take()
    assert isinstance(event, Opened)
    return event


def test_the_handshake_says_who_we_are_and_where_to() -> None:
    session = Session(Login("app", "s3cret", "/shop"), about={"connection_name": "orders"})
    assert session.begin() == b"AMQP\0\0\x09\x01"
    assert session.feed(start()) == []
    method, (about, mechanism, response, locale) = arguments_of(session.take())
    assert method == Method.CONNECTION_START_OK
    assert (mechanism, response, locale) == ("PLAIN", b"\0app\0s3cret", "en_US")
    assert about["connection_name"] == "orders"
    assert about["capabilities"]["connection.blocked"] is True
    session.feed(tune(frame_max=8192, heartbeat=5))
    tuned, to_open = frames_of(session.take())
    assert arguments_of(tuned) == (Method.CONNECTION_TUNE_OK, [1, 8192, 5])
    assert arguments_of(to_open)[1][0] == "/shop"
    session.feed(encode_method(Method.CONNECTION_OPEN_OK, "", channel=0))
    assert arguments_of(session.take())[0] == Method.CHANNEL_OPEN
    assert not session.is_open
    assert session.feed(encode_method(Method.CHANNEL_OPEN_OK, b"")) == [Opened(8192, 5, SERVER)]
    assert session.is_open
    assert "s3cret" not in repr(session.__dict__)


def test_a_certificate_can_tell_who_we_are() -> None:
    session = Session(Login(mechanism="EXTERNAL"))
    session.feed(start())
    assert arguments_of(session.take())[1][1:3] == ["EXTERNAL", b""]
    with pytest.raises(WireError, match="does not offer EXTERNAL, only PLAIN"):
        Session(Login(mechanism="EXTERNAL")).feed(start(b"PLAIN"))


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"), [(10, 60, 10), (10, 5, 5), (10, 0, 10), (0, 60, 0)]
)
def test_the_shorter_heartbeat_is_agreed_on(ours: int, theirs: int, agreed: int) -> None:
    assert opened(Session(Login(), heartbeat=ours), tune(heartbeat=theirs)).heartbeat == agreed


def test_no_limit_of_the_broker_is_our_limit() -> None:
    assert opened(Session(Login(), frame_max=65536), tune(frame_max=0)).frame_max == 65536
    with pytest.raises(WireError, match="AMQP needs 4096"):
        opened(Session(Login()), tune(frame_max=100))


@pytest.mark.parametrize(("agreed", "size"), [(4096, 50_000), (131072, 131072), (131072, 500_000)])
def test_headers_larger_than_the_agreed_frames_are_read(agreed: int, size: int) -> None:
    """RabbitMQ sends them so."""
    session = Session(Login(), frame_max=agreed)
    opened(session)
    head = encode_method(Method.BASIC_DELIVER, "c", 1, 0, "", "orders")
    properties = b"\x20\0" + struct.pack(">I", size) + bytes(size)
    (batch,) = session.feed(head + content_header(properties, 0))
    assert isinstance(batch, Deliveries)
    assert batch.items[0][3] == properties


def test_the_end_is_told_with_code_and_text_and_answered() -> None:
    session = Session(Login())
    session.feed(start())
    session.take()
    text = "ACCESS_REFUSED - Login was refused"
    (event,) = session.feed(encode_method(Method.CONNECTION_CLOSE, 403, text, 0, 0, channel=0))
    assert event == Closed("connection", 403, text)
    assert str(event) == f"403 {text}"
    assert arguments_of(session.take())[0] == Method.CONNECTION_CLOSE_OK
    assert session.feed(b"whatever follows") == []

    session = Session(Login())
    opened(session)
    (event,) = session.feed(
        encode_method(Method.CHANNEL_CLOSE, 404, "NOT_FOUND - no queue", 60, 20) + ack(1)
    )
    assert event == Closed("channel", 404, "NOT_FOUND - no queue", (60, 20))
    replies = [arguments_of(frame)[0] for frame in frames_of(session.take())]
    assert replies == [Method.CHANNEL_CLOSE_OK, Method.CONNECTION_CLOSE]


def test_our_own_end_waits_for_the_broker() -> None:
    session = Session(Login())
    opened(session)
    method, arguments = arguments_of(session.close("stopped"))
    assert (method, arguments[:2]) == (Method.CONNECTION_CLOSE, [200, "stopped"])
    (event,) = session.feed(encode_method(Method.CONNECTION_CLOSE_OK, channel=0))
    assert event == Closed("connection", 200, "closed by us")


@pytest.mark.parametrize("early", [tune(), ack(1), deliver(1, b"x"), returned(b"")])
def test_nothing_may_come_before_its_time(early: bytes) -> None:
    with pytest.raises(WireError):
        Session(Login()).feed(early)


def test_an_open_session_passes_on_what_it_is_told() -> None:
    session = Session(Login())
    opened(session)
    events = session.feed(
        deliver(1, b"x") + encode_method(Method.BASIC_CANCEL, "c", 1) + HEARTBEAT + ack(5, 1)
    )
    kinds = [type(event) for event in events]
    assert kinds == [Deliveries, Told, Arrived, Confirms]
    assert session.take() == b""
    with pytest.raises(WireError, match=r"says 10\.30"):
        session.feed(tune())


def test_a_publish_is_mandatory() -> None:
    frame = encode_publish("amq.topic", "a.b")
    assert frame[7:11] == b"\0\x3c\0\x28"
    assert frame[11:] == b"\0\0\x09amq.topic\x03a.b\x01\xce"
    with pytest.raises(ValueError, match="AMQP takes 255"):
        encode_publish("", "x" * 256)


def test_bodies_are_cut_and_joined() -> None:
    assert body_frames(b"", 4096) == b""
    for size in (1, 4088, 4089, 20_000):
        frames = frames_of(body_frames(b"y" * size, 4096))
        assert all(len(frame) <= 4096 for frame in frames)
        assert join_body(b"".join(frames)) == b"y" * size
    with pytest.raises(WireError):
        join_body(body_frames(b"abc", 4096)[:-1])
    with pytest.raises(WireError):
        join_body(HEARTBEAT)
