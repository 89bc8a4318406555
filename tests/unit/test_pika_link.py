"""The AMQP link without a socket: whole, byte by byte, and against a peer that lies."""

from __future__ import annotations

import struct
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from understudy.pika.link import INTERRUPTED, Link
from understudy.pika.link_channel import LinkLost
from understudy.pika.message import OutMessage, id_of
from understudy.pika.properties import decoded_properties
from understudy.pika.topology import Topology


class Told:
    """A receiver that keeps everything."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def delivered(self, method: Any, properties: Any, body: bytes) -> None:
        self.all.append(("delivered", method.delivery_tag, properties.message_id, body))

    def returned(self, method: Any, properties: Any, body: bytes) -> None:
        self.all.append(("returned", method.reply_code, body))

    def cancelled(self, method_frame: Any) -> None:
        self.all.append(("cancelled", method_frame.method.consumer_tag))

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        self.all.append(("settled", tag, multiple, ok))

    def closed(self, reason: Exception) -> None:
        self.all.append(("closed", str(reason)))


def method(number: int, one: Any) -> bytes:
    return bytes(frame.Method(number, one).marshal())


def content(number: int, one: Any, properties: Any, body: bytes, size: int = 4096) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    frames = [frame.Body(number, part).marshal() for part in parts]
    header: bytes = frame.Header(number, len(body), properties).marshal()
    return method(number, one) + header + b"".join(frames)


def opened() -> tuple[Link, list[bytes]]:
    written: list[bytes] = []
    link = Link(written.append, pika.ConnectionParameters(), 10)
    link.start()
    start = spec.Connection.Start(
        server_properties={"capabilities": {"basic.nack": True}},
        mechanisms="PLAIN",
        locales="en_US",
    )
    link.feed(method(0, start))
    link.feed(method(0, spec.Connection.Tune(100, 8192, 60)))
    link.feed(method(0, spec.Connection.OpenOk()))
    return link, written


STREAM = b"".join(
    [
        method(1, spec.Channel.OpenOk()),
        method(1, spec.Confirm.SelectOk()),
        frame.Heartbeat().marshal(),
        content(
            1,
            spec.Basic.Deliver("tag", 7, False, "", "key"),
            pika.BasicProperties(message_id="m"),
            b"b" * 9000,
        ),
        content(1, spec.Basic.Return(312, "NO_ROUTE", "", "key"), pika.BasicProperties(), b"back"),
        method(1, spec.Basic.Ack(1, False)),
        content(1, spec.Basic.Deliver("tag", 8, True, "", "key"), pika.BasicProperties(), b""),
        method(1, spec.Basic.Nack(3, True)),
        method(1, spec.Basic.Cancel("tag")),
        method(1, spec.Channel.Close(406, "PRECONDITION_FAILED", 0, 0)),
    ]
)
MEANING = [
    ("delivered", 7, "m", b"b" * 9000),
    ("returned", 312, b"back"),
    ("settled", 1, False, True),
    ("delivered", 8, None, b""),
    ("settled", 3, True, False),
    ("cancelled", "tag"),
    ("closed", "(406, 'PRECONDITION_FAILED')"),
]


def feed_in_pieces(sizes: list[int]) -> tuple[list[tuple[Any, ...]], Any, Any]:
    link, _ = opened()
    told = Told()
    channel = link.open_channel(1, told)
    channel.select_confirms()
    sent = [channel.publish(OutMessage("", "key", b"x", None, False)) for _ in range(4)]
    position = 0
    while position < len(STREAM):
        size = sizes[position % len(sizes)]
        link.feed(STREAM[position : position + size])
        position += size
    return told.all, sent, link


def test_whole_and_byte_by_byte() -> None:
    for size in (len(STREAM), 1, 2, 7, 4096):
        told, sent, link = feed_in_pieces([size])
        assert told == MEANING
        assert link.lost is None
        assert link.channels == {}
        assert [one.is_over for one in sent] == [True] * 4
        assert [one.ok for one in sent] == [True, False, False, False]
        assert [one.failed is not None for one in sent] == [False, False, False, True]


@given(st.lists(st.integers(1, 300), min_size=1))
def test_any_pieces_mean_the_same(sizes: list[int]) -> None:
    assert feed_in_pieces(sizes)[0] == MEANING


def test_negotiation() -> None:
    """The smaller limit counts; the heartbeat is ours."""
    link, written = opened()
    assert link.is_open
    assert (link.channel_max, link.frame_max) == (100, 8192)
    assert link.capabilities == {"basic.nack": True}
    tuned = spec.Connection.TuneOk().decode(written[-2][7:], 4)
    assert (tuned.channel_max, tuned.frame_max, tuned.heartbeat) == (100, 8192, 10)
    assert link.free_number({100, 99}) == 98


@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    link, _ = opened()
    link.open_channel(1, Told()).select_confirms()
    link.feed(data)
    link.feed(data)


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.sampled_from([0, 1]), st.binary())),
    st.sampled_from([0x000A0032, 0x003C003C, 0x003C0050, 0x0014000B, 0x003C0032]),
)
def test_no_frames_make_it_raise(frames: list[tuple[int, int, bytes]], method_id: int) -> None:
    link, _ = opened()
    link.open_channel(1, Told()).select_confirms()
    for kind, number, payload in frames:
        head = struct.pack(">I", method_id) if kind == 1 else b""
        size = len(head) + len(payload)
        link.feed(struct.pack(">BHI", kind, number, size) + head + payload + b"\xce")


def test_verdicts_are_told_from_accidents() -> None:
    """Forced closes say nothing about a message."""
    for code, is_verdict in ((320, False), (506, False), (501, True), (540, True)):
        link, written = opened()
        link.feed(method(0, spec.Connection.Close(code, "why", 0, 0)))
        assert link.lost is not None
        assert link.lost.is_verdict is is_verdict
        assert written[-1] == method(0, spec.Connection.CloseOk())
    link, _ = opened()
    link.feed(b"\x01\x00\x00\xff\xff\xff\xff\x00")
    assert link.lost is not None
    assert not link.lost.is_verdict


def test_answers_come_in_the_order_of_requests() -> None:
    link, _ = opened()
    channel = link.open_channel(1, Told())
    qos = channel.ask(spec.Basic.Qos(), spec.Basic.QosOk)
    get = channel.ask(spec.Basic.Get(queue="q"), spec.Basic.GetOk, spec.Basic.GetEmpty)
    link.feed(method(1, spec.Channel.OpenOk()) + method(1, spec.Basic.QosOk()))
    assert qos.is_over()
    assert not get.is_over()
    link.feed(content(1, spec.Basic.GetOk(1, False, "", "q", 0), pika.BasicProperties(), b"x"))
    assert get.content is not None
    assert get.content[2] == b"x"
    link.feed(method(1, spec.Basic.QosOk()))
    assert link.lost is not None, "an answer that nobody asked for"


def test_message_keeps_what_the_application_gave() -> None:
    given_properties = pika.BasicProperties(headers={"a": 1, "x-understudy-resend": True})
    message = OutMessage("", "key", "text", given_properties, False)
    assert given_properties.headers == {"a": 1, "x-understudy-resend": True}
    assert message.properties.headers == {"a": 1, "x-understudy-id": message.message_id}
    assert message.properties.delivery_mode == 2
    assert message.body == b"text"
    first = message.frames(1, 4096)
    message.mark_resend()
    assert message.frames(1, 4096) != first
    assert message.properties.headers["x-understudy-resend"] is True
    assert id_of(message.properties) == message.message_id
    own = OutMessage("", "key", b"", pika.BasicProperties(message_id="mine"), True)
    assert own.message_id == "mine"
    assert own.properties.headers is None


def test_timestamp_that_pika_cannot_decode_costs_no_connection() -> None:
    """A header in milliseconds, as other clients send it, alone or in a table, is a number."""
    late = 1_795_000_000_000_000
    stamp = b"T" + struct.pack(">Q", late)
    inner = b"\x02at" + stamp
    table = b"\x04when" + stamp + b"\x03nnn" + b"I" + struct.pack(">i", -5)
    table += b"\x05inner" + b"F" + struct.pack(">I", len(inner)) + inner
    encoded = struct.pack(">H", 0xB080) + b"\x04text" + struct.pack(">I", len(table)) + table
    encoded += b"\x02" + b"\x02id"  # delivery mode, message id
    properties = decoded_properties(encoded)
    assert properties.content_type == "text"
    assert properties.headers == {"when": late, "nnn": -5, "inner": {"at": late}}
    assert (properties.delivery_mode, properties.message_id) == (2, "id")


@given(st.binary(max_size=300), st.integers(16, 64))
def test_frames_are_split_at_the_limit(body: bytes, frame_max: int) -> None:
    data = OutMessage("", "key", body, pika.BasicProperties(message_id="m"), False).frames(
        5, frame_max
    )
    parts = []
    while data:
        used, one = frame.decode_frame(data)
        assert one is not None
        if isinstance(one, frame.Body):
            assert used <= frame_max
            parts.append(one.fragment)
        data = data[used:]
    assert b"".join(parts) == body


def test_topology_forgets_what_is_gone() -> None:
    topology = Topology()
    for one in (
        spec.Exchange.Declare(exchange="e", passive=False),
        spec.Exchange.Declare(exchange="f", passive=True),
        spec.Queue.Declare(queue="q", passive=False, auto_delete=True),
        spec.Queue.Declare(queue="r", passive=False),
        spec.Queue.Bind(queue="q", exchange="e", routing_key="k", arguments={}),
        spec.Queue.Bind(queue="r", exchange="e", routing_key="k", arguments={}),
        spec.Exchange.Bind(destination="g", source="e", routing_key="", arguments={}),
    ):
        topology.note(one)
    assert len(topology) == 6
    assert topology.is_auto_delete("q")
    topology.note(spec.Queue.Delete(queue="q"))
    topology.note(spec.Exchange.Unbind(destination="g", source="e", routing_key="", arguments={}))
    assert [type(one).__name__ for one in topology.methods()] == ["Declare", "Declare", "Bind"]
    topology.note(spec.Exchange.Delete(exchange="e"))
    (left,) = topology.methods()
    assert left.queue == "r"


def test_a_close_convicts_only_who_was_alone_with_it() -> None:
    """What a request or a message of another thread has done is not the caller's fault."""

    def closed(*numbers: int, more: bool = False, opens: bool = False) -> LinkLost:
        link, _ = opened()
        message = OutMessage("", "q", b"", None, False)
        for number in (1, 2):
            channel = link.open_channel(number, Told())
            channel.select_confirms()
            link.feed(method(number, spec.Channel.OpenOk()))
            link.feed(method(number, spec.Confirm.SelectOk()))
            channel.keeps_more = lambda: more
        for number in numbers:
            link.channels[number].publish(message)
        if opens:
            link.open_channel(3, Told())
        link.feed(method(0, spec.Connection.Close(501, "FRAME_ERROR", 0, 0)))
        assert link.lost is not None
        return link.lost

    assert closed(1).convicts()
    assert not closed(1).convicts(own=0)
    assert not closed(1, 2).convicts()
    assert not closed(1, 1).convicts()
    assert not closed(1, more=True).convicts()
    assert not closed(1, opens=True).convicts()
    assert closed(opens=True).convicts()


def test_a_message_counts_for_what_was_written_right_before_it() -> None:
    link, _ = opened()
    channel = link.open_channel(1, Told())
    assert channel.outstanding == 1
    channel.select_confirms()
    channel.publish(OutMessage("", "q", b"", None, False))
    assert channel.outstanding == 1
    assert channel.is_alone()


def test_messages_are_not_alone_with_a_request_that_is_none_of_theirs() -> None:
    """A refused channel.open or secret closes the connection, and names nobody."""
    link, _ = opened()
    channel = link.open_channel(1, Told())
    channel.select_confirms()
    channel.publish(OutMessage("", "q", b"", None, False))
    link.open_channel(2, Told())
    assert not channel.is_alone()
    link.feed(method(2, spec.Channel.OpenOk()))
    assert channel.is_alone()
    link.update_secret("new", "because")
    assert not channel.is_alone()
    link.feed(method(0, spec.Connection.UpdateSecretOk()))
    assert channel.is_alone()


def test_an_exception_of_a_signal_handler_is_not_the_brokers_fault() -> None:
    """Celery's SoftTimeLimitExceeded is an Exception, and comes wherever it will."""

    class SoftTimeLimitExceeded(Exception):
        pass

    class Interrupted(Told):
        def delivered(self, method: Any, properties: Any, body: bytes) -> None:
            raise SoftTimeLimitExceeded

    link, _ = opened()
    link.open_channel(1, Interrupted())
    deliver = spec.Basic.Deliver("tag", 1, False, "", "key")
    with pytest.raises(SoftTimeLimitExceeded):
        link.feed(
            method(1, spec.Channel.OpenOk()) + content(1, deliver, pika.BasicProperties(), b"")
        )
    assert str(link.lost) == INTERRUPTED


def test_a_time_that_no_system_can_tell_breaks_the_protocol() -> None:
    """It is an OSError in Python."""
    link, _ = opened()
    table = b"\x01xT" + struct.pack(">Q", 2**60)
    start = struct.pack(">IBBI", spec.Connection.Start.INDEX, 0, 9, len(table)) + table
    payload = start + struct.pack(">II", 0, 0)
    link.feed(struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce")
    assert "broke the protocol" in str(link.lost)


def test_a_broker_that_blocks_before_anybody_listens_is_remembered() -> None:
    """It may say so in one breath with the end of the handshake, or to a spare connection."""
    link, _ = opened()
    link.feed(method(0, spec.Connection.Blocked("low on memory")))
    assert link.blocked.method.reason == "low on memory"
    link.feed(method(0, spec.Connection.Unblocked()))
    assert link.blocked is None


@pytest.mark.parametrize("within", ["publish", "ask"])
def test_a_handler_that_writes_before_the_bytes_of_what_it_interrupts_loses_the_link(
    within: str,
) -> None:
    """The broker would count its message first, and confirm it under the tag of the other."""
    written: list[bytes] = []
    handlers: list[Any] = []

    def write(data: bytes) -> None:
        if handlers:
            handlers.pop()()
        written.append(data)

    link = Link(write, pika.ConnectionParameters(), 0)
    channel = link.open_channel(1, Told())
    channel.select_confirms()
    written.clear()
    handlers.append(lambda: channel.publish(OutMessage("", "q", b"handler's", None, False)))
    if within == "publish":
        channel.publish(OutMessage("", "q", b"interrupted", None, False))
    else:
        channel.ask(spec.Basic.Qos(0, 1, False), spec.Basic.QosOk)
    assert str(link.lost) == INTERRUPTED
    assert not any(b"handler's" in data for data in written)
