"""Links between two RabbitMQ nodes: what arrives is what was sent, and all of it."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from typing import Any

import amqp
import pytest
from amqp import Channel

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.wire.methods import encode_frame
from understudyd.bridge.wire.properties import append_entry, build
from understudyd.bridge.wire.tables import encode_entry
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.messages import EVERYTHING
from understudyd.testing.recorder import Recorder

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]
PERSISTENT = {"delivery_mode": 2}
OVER = {"x-understudy-deadline": "1000 600000"}  # in 1970, with the expiration beside it


def publish(channel: Channel, queue: str, bodies: list[bytes], **properties: Any) -> None:
    """All of them, confirmed."""
    channel.confirm_select()
    acked = [0]
    channel.events["basic_ack"].add(lambda tag, _: acked.append(tag))
    for number, body in enumerate(bodies, 1):
        message = amqp.Message(body, **{**PERSISTENT, **properties})
        channel._basic_publish(message, routing_key=queue)
        while number - max(acked) > 500:
            channel.connection.drain_events(timeout=30)
    while max(acked) < len(bodies):
        channel.connection.drain_events(timeout=30)


def bodies(channel: Channel, queue: str, count: int) -> list[bytes]:
    """So many messages of a queue, then none."""
    found: list[bytes] = []

    def take() -> bool:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            body = message.body
            found.append(body.encode() if isinstance(body, str) else bytes(body))
        return len(found) >= count

    until(take, f"{count} messages in {queue}")
    return found


def test_ten_thousand_of_mixed_sizes_arrive_equal_and_in_order(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenarios 1 and 38."""
    rng = random.Random(7)
    sizes = [0, 1, 100, 1024, 5000, 131_000, 131_064, 131_065, 300_000]
    sent = [
        b"%06d" % n + rng.randbytes(rng.choice(sizes) if n % 50 == 0 else rng.randrange(300))
        for n in range(10_000)
    ]
    publish(plain(rabbit_a), queue, sent)
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue) as link:
        link.await_forwarded(len(sent))
        assert bodies(plain(rabbit_b), queue, len(sent)) == sent
    assert rabbit_a.queue_depth(queue) == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"\r\n\0\xce\n", bytes(range(256)) * 3, "é\U0001f600".encode(), b"x" * 3_000_000],
    ids=["empty", "NUL", "line ends", "every byte", "UTF-8", "3 MB"],
)
def test_a_body_arrives_byte_for_byte(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, body: bytes
) -> None:
    """Scenarios 2 and 3."""
    publish(plain(rabbit_a), queue, [body])
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue):
        assert bodies(plain(rabbit_b), queue, 1) == [body]


def test_every_kind_of_property_arrives_byte_for_byte(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenarios 6 and 7: looked at on the wire, since no client reads all of it."""
    raw = build(EVERYTHING)
    channel = plain(rabbit_a)
    channel.confirm_select()
    method = b"\0\x3c\0\x28\0\0\0" + bytes([len(queue)]) + queue.encode() + b"\0"
    header = struct.pack(">HHQ", 60, 0, 4) + raw
    frames = [(1, method), (2, header), (3, b"body")]
    channel.connection.transport.write(
        b"".join(encode_frame(kind, channel.channel_id, payload) for kind, payload in frames)
    )
    until(lambda: rabbit_a.queue_depth(queue) == 1, "the message is at the source")
    seen = Recorder(rabbit_b)
    with RunningLink(rabbit_a.uri, seen.uri, queue) as link:
        link.await_forwarded(1)
    expected = append_entry(raw, encode_entry("x-understudy-path", "source/"))
    assert seen.sent_contains(expected)
    seen.close()


def test_a_time_to_live_goes_on_and_does_not_begin_anew(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 10: what was spent at the source is known by the timestamp; what is over is settled
    and not sent."""
    now = int(time.time())
    publish(plain(rabbit_a), queue, [b"over"], expiration="600000", application_headers=OVER)
    publish(plain(rabbit_a), queue, [b"3 s spent"], expiration="60000", timestamp=now - 3)
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue) as link:
        link.await_forwarded(1)
        until(lambda: not link.in_flight, "all is settled")
    assert rabbit_a.queue_depth(queue) == 0
    channel = plain(rabbit_b)
    arrived = channel.basic_get(queue, no_ack=True)
    assert arrived is not None
    assert arrived.body in (b"3 s spent", "3 s spent")
    assert 0 < int(arrived.properties["expiration"]) <= 58_000
    assert channel.basic_get(queue, no_ack=True) is None


def test_an_unroutable_message_is_parked_with_its_reason_and_the_rest_goes_on(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 22."""
    here, there = plain(rabbit_a), plain(rabbit_b)
    for channel in (here, there):
        channel.exchange_declare(queue, "topic", durable=True, auto_delete=False)
    there.queue_bind(queue, queue, "bound")
    with RunningLink(rabbit_a.uri, rabbit_b.uri, f"exchange://{queue}/>", name=queue) as link:
        link.await_state("running")
        for key, body in (("nowhere", b"1"), ("bound", b"2"), ("bound", b"3")):
            here.basic_publish(amqp.Message(body, **PERSISTENT), queue, key)
        link.await_forwarded(2)
        until(lambda: link.parked == 1, "the other one is parked")
        assert bodies(there, queue, 2) == [b"2", b"3"]
        parked = there.basic_get(f"understudy.parking.{queue}", no_ack=True)
        assert parked is not None
        headers = parked.properties["application_headers"]
        assert headers["x-understudy-parked-reason"] == (
            f"312 NO_ROUTE: no queue is bound to exchange://{queue}/nowhere at the target"
        )
        assert headers["x-understudy-parked-routing-key"] == "nowhere"
        assert parked.body in (b"1", "1")
    there.queue_delete(f"understudy.parking.{queue}")
    here.queue_delete(f"understudy.bridge.{queue}.exchange://{queue}/>")


def test_a_topic_is_copied_also_what_came_while_no_bridge_ran(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    here, there = plain(rabbit_a), plain(rabbit_b)
    there.queue_bind(queue, "amq.topic", f"{queue}.#")
    pattern = f"topic://{queue}.in.*"
    options: dict[str, Any] = {
        "name": queue,
        "excluded": [f"topic://{queue}.in.secret"],
        "rename": {pattern: f"topic://{queue}.out.*"},
        "dynamically_included": [pattern],
    }

    def tell(*bodies: bytes) -> None:
        for body in bodies:
            for key in ("a", "secret", "a.b"):
                message = amqp.Message(body + key.encode(), **PERSISTENT)
                here.basic_publish(message, "amq.topic", f"{queue}.in.{key}")

    with RunningLink(rabbit_a.uri, rabbit_b.uri, pattern, **options) as link:
        link.await_state("running")
        tell(b"1", b"2")
        assert bodies(there, queue, 2) == [b"1a", b"2a"]
    tell(b"3")
    with RunningLink(rabbit_a.uri, rabbit_b.uri, pattern, **options) as link:
        assert bodies(there, queue, 1) == [b"3a"]
        until(lambda: not link.in_flight, "it is settled")
    ours = f"understudy.bridge.{queue}.{pattern}"
    assert rabbit_a.queue_depth(ours) == 0
    here.queue_delete(ours)


def test_opposite_bridges_of_one_topic_do_not_circulate(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 54: each message once at each broker."""
    nodes = (rabbit_a, rabbit_b)
    for node in nodes:
        plain(node).queue_bind(queue, "amq.topic", queue)
    pattern = f"topic://{queue}"
    names = ("a/", "b/")
    with (
        RunningLink(
            nodes[0].uri, nodes[1].uri, pattern, name=queue, here=names[0], there=names[1]
        ) as one,
        RunningLink(
            nodes[1].uri, nodes[0].uri, pattern, name=queue, here=names[1], there=names[0]
        ) as other,
    ):
        one.await_state("running")
        other.await_state("running")
        for number in range(100):
            message = amqp.Message(b"%d" % number, **PERSISTENT)
            plain_node = nodes[number % 2]
            plain(plain_node).basic_publish(message, "amq.topic", queue)
        until(lambda: one.forwarded >= 50 and other.forwarded >= 50, "both ways")
        ours = f"understudy.bridge.{queue}.{pattern}"
        until(lambda: all(node.queue_depth(ours) == 0 for node in nodes), "all is read")
    assert (one.forwarded, other.forwarded) == (50, 50)
    for node in nodes:
        assert sorted(map(int, bodies(plain(node), queue, 100))) == list(range(100))
        plain(node).queue_delete(ours)


def test_a_full_queue_is_tried_again_without_a_hot_loop(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """Scenario 21."""
    plain(rabbit_a).queue_declare(unique, durable=True, auto_delete=False)
    full = {"x-max-length": 5, "x-overflow": "reject-publish"}
    there = plain(rabbit_b)
    there.queue_declare(unique, durable=True, auto_delete=False, arguments=full)
    sent = [b"%d" % n for n in range(50)]
    publish(plain(rabbit_a), unique, sent)
    with RunningLink(rabbit_a.uri, rabbit_b.uri, unique) as link:
        link.await_state("retrying")
        until(lambda: rabbit_b.queue_depth(unique) >= 5, "the queue is full")
        before = link.retried
        until(lambda: link.retried > before + 2, "it is tried again")
        assert link.retried < before + 200
        assert rabbit_a.queue_depth(unique) + link.in_flight >= 40
        found: set[bytes] = set()

        def all_arrive() -> bool:
            found.update(bodies(there, unique, 0))
            return found == set(sent)

        until(all_arrive, "all arrive")
        link.await_state("running")
    assert rabbit_a.queue_depth(unique) == 0


def test_a_queue_that_is_deleted_and_made_again_is_read_again(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 26."""
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue) as link:
        link.await_state("running")
        plain(rabbit_a).queue_delete(queue)
        link.await_state("waiting-source")
        until(lambda: "404" in link.reason, "the reason is that there is no queue")
        assert queue in link.reason
        plain(rabbit_a).queue_declare(queue, durable=True, auto_delete=False)
        publish(plain(rabbit_a), queue, [b"again"])
        assert bodies(plain(rabbit_b), queue, 1) == [b"again"]


def test_stopping_under_load_settles_what_is_in_flight_and_doubles_nothing(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 20."""
    sent = [b"%d" % n for n in range(10_000)]
    publish(plain(rabbit_a), queue, sent)
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue) as link:
        link.await_forwarded(2_000)
        link.stop()
        assert link.is_over_within(20)
    left = rabbit_a.queue_depth(queue)
    arrived = bodies(plain(rabbit_b), queue, len(sent) - left)
    assert arrived == sent[: len(arrived)]
    assert bodies(plain(rabbit_a), queue, left) == sent[len(arrived) :]


def test_a_blocked_target_stops_the_reading_and_shows(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 24: an alarm."""
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue) as link:
        link.await_state("running")
        rabbit_b.ctl("set_vm_memory_high_watermark", "0.0001")
        try:
            publish(plain(rabbit_a), queue, [b"x" * 1000] * 3000)
            link.await_state("blocked")
            assert link.in_flight <= 1000
        finally:
            rabbit_b.ctl("set_vm_memory_high_watermark", "0.9")
        link.await_forwarded(3000)
        assert link.state == "running"
    assert rabbit_a.queue_depth(queue) == 0
    assert rabbit_b.queue_depth(queue) == 3000


@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize("fault", ["reset", "black_hole"])
def test_a_cut_or_a_silent_network_loses_nothing(
    plain: Plain,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    queue: str,
    end: str,
    fault: str,
) -> None:
    """Scenarios 18 and 39: the order holds, and no more is doubled than the window."""
    sent = [b"%d" % n for n in range(6_000)]
    publish(plain(rabbit_a), queue, sent)
    node = rabbit_a if end == "source" else rabbit_b
    with FaultProxy(node.host, node.port) as proxy:
        uris = {"source": rabbit_a.uri, "target": rabbit_b.uri}
        behind = uris[end].replace(f"{node.host}:{node.port}", f"{proxy.host}:{proxy.port}")
        uris[end] = f"{behind}?heartbeat=1000"
        settings = LinkSettings(prefetch=200)
        with RunningLink(uris["source"], uris["target"], queue, settings=settings) as link:
            link.await_forwarded(1_000)
            getattr(proxy, fault)()
            if fault == "black_hole":
                link.await_state("holding", "waiting-source", "waiting-target", within=20)
                proxy.heal(drop=True)
            until(lambda: link.forwarded >= len(sent) - 200, "most are forwarded")
            until(lambda: rabbit_a.queue_depth(queue) == 0 and not link.in_flight, "all are")
    arrived = bodies(plain(rabbit_b), queue, len(sent))
    assert list(dict.fromkeys(arrived)) == sent, "lost, or out of order"
    assert len(arrived) - len(sent) <= 200


def test_wrong_credentials_and_a_missing_vhost_are_told_without_a_password(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 29."""
    wrong = rabbit_b.uri.replace("guest:guest", "guest:s3cret")
    with RunningLink(rabbit_a.uri, wrong, queue) as link:
        until(lambda: "403 ACCESS_REFUSED" in link.reason, "the refusal is shown")
        assert link.state == "waiting-target"
        assert "s3cret" not in link.reason
    with RunningLink(rabbit_a.uri, rabbit_b.uri + "/nowhere", queue) as link:
        until(lambda: "530 NOT_ALLOWED" in link.reason, "the refusal is shown")


def test_a_message_with_another_users_id_goes_through(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, launch: Any
) -> None:
    """Scenario 12: a broker refuses a user id that is not the publisher's."""
    other = launch(RabbitMQ(users={"bridge": "bridge"}))
    with amqp.Connection(f"{other.host}:{other.port}", userid="bridge", password="bridge") as c:
        c.channel().queue_declare(queue, durable=True, auto_delete=False)
    publish(plain(rabbit_a), queue, [b"x"], user_id="guest")
    with RunningLink(rabbit_a.uri, other.uri, queue) as link:
        link.await_forwarded(1)
    assert other.queue_depth(queue) == 1
