"""The options of a bridge between real brokers: each does what it says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import pytest
from amqp import Channel

from understudy.testing.brokers import RabbitMQ
from understudyd.bridge.settings import LinkSettings, Reading
from understudyd.testing.bridged import BridgeProcess, RunningLink, until

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]


def publish(plain: Plain, node: RabbitMQ, queue: str, *bodies: bytes, **properties: Any) -> None:
    channel = plain(node)
    channel.confirm_select()
    for body in bodies:
        message = amqp.Message(body, delivery_mode=2, **properties)
        channel.basic_publish_confirm(message, routing_key=queue)


def take(plain: Plain, node: RabbitMQ, queue: str) -> list[amqp.Message]:
    channel = plain(node)
    found = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        found.append(message)
    return found


def body_of(message: amqp.Message) -> bytes:
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_opposite_bridges_of_two_files_do_not_circulate_one_queue(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """B09, B10, scenario 56: what has come once stays, whole and in reach of its consumers."""
    ends: dict[str, Any] = {"here": "a/", "there": "b/"}
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue, name="one", **ends) as one:
        publish(plain, rabbit_a, queue, *[b"%d" % n for n in range(50)], priority=4)
        one.await_forwarded(50)
    with (
        RunningLink(rabbit_a.uri, rabbit_b.uri, queue, name="one", **ends) as one,
        RunningLink(
            rabbit_b.uri, rabbit_a.uri, queue, name="other", here="b/", there="a/"
        ) as other,
    ):
        other.await_state("holding")
        assert "own consumers" in other.reason
        publish(plain, rabbit_b, queue, b"fresh")
        until(lambda: other.forwarded == 1, "what was published here is forwarded")
        one.await_state("holding")
        assert (one.forwarded, one.parked, other.parked) == (0, 0, 0)
        found: list[amqp.Message] = []

        def all_of_them() -> bool:
            found.extend(take(plain, rabbit_b, queue))
            return len(found) >= 50

        until(all_of_them, "a consumer of the broker gets them all")
        other.await_state("running")
    assert sorted(int(body_of(message)) for message in found) == list(range(50))
    assert {message.properties["priority"] for message in found} == {4}
    assert [body_of(message) for message in take(plain, rabbit_a, queue)] == [b"fresh"]
    assert take(plain, rabbit_b, queue) == []


def test_messages_past_their_limit_keep_nobody_busy(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Idle while nothing else is there, and what can go on still does."""
    path = {"x-understudy-path": "elsewhere:5672/"}
    publish(plain, rabbit_a, queue, *[b"%d" % n for n in range(300)], application_headers=path)
    with BridgeProcess(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        until(lambda: "holding" in bridge.log, "it is shown")
        assert bridge.process is not None
        before = cpu_seconds(bridge.process.pid)
        time.sleep(3)
        assert cpu_seconds(bridge.process.pid) - before < 0.6
        publish(plain, rabbit_a, queue, b"can go on")
        until(lambda: rabbit_b.queue_depth(queue) == 1, "it goes on")
        assert bridge.stop() == 0
    assert bridge.log.count("holding") < 10
    assert len(take(plain, rabbit_a, queue)) == 300


def test_a_rate_holds_and_keeps_the_order(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 69."""
    sent = [b"%d" % n for n in range(2_000)]
    channel = plain(rabbit_a)
    channel.confirm_select()
    for body in sent:
        channel.basic_publish(amqp.Message(body, delivery_mode=2), routing_key=queue)
    until(lambda: rabbit_a.queue_depth(queue) == 2_000, "all are there")
    settings = LinkSettings(prefetch=100)
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue, settings=settings, rate=500) as link:
        link.await_forwarded(200)
        begun, at_first = time.monotonic(), link.forwarded
        link.await_forwarded(1_700)
        took, count = time.monotonic() - begun, link.forwarded - at_first
        assert link.in_flight <= 100
        assert count / took <= 500 * 1.05 + 50 / took
        link.await_forwarded(2_000)
    assert [body_of(message) for message in take(plain, rabbit_b, queue)] == sent


def test_the_brokers_own_consumers_come_first(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """B12: a consumer with room gets all; a bridge that does not lower itself gets its share."""
    channel = plain(rabbit_a)
    channel.basic_qos(0, 100, False)
    got: list[Any] = []
    channel.basic_consume(queue, callback=got.append)
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue) as link:
        link.await_state("running")
        publish(plain, rabbit_a, queue, *[b"x"] * 20)
        until(lambda: channel.connection.drain_events(timeout=10) or len(got) >= 20, "all of it")
        assert link.forwarded == 0
    equal = LinkSettings(reading=Reading(after_others=False))
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue, settings=equal) as link:
        link.await_state("running")
        publish(plain, rabbit_a, queue, *[b"y"] * 20)
        link.await_forwarded(5)


def test_a_subscription_that_expires_and_one_that_stays(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    ours = f"understudy.bridge.{queue}.topic://{queue}"
    settings = LinkSettings(reading=Reading(durable_expires=1.0))
    given: dict[str, Any] = {"name": queue, "settings": settings}
    with RunningLink(rabbit_a.uri, rabbit_b.uri, f"topic://{queue}", **given) as link:
        link.await_state("running")
        assert ours in rabbit_a.ctl("list_queues", "name", "arguments", "-q")

    def is_gone() -> bool:
        return ours not in rabbit_a.ctl("list_queues", "name", "-q")

    until(is_gone, "nobody reads it")
    with RunningLink(rabbit_a.uri, rabbit_b.uri, f"topic://{queue}", name=queue) as link:
        link.await_state("running")
    with RunningLink(rabbit_a.uri, rabbit_b.uri, f"topic://{queue}", **given) as link:
        until(lambda: "x-expires" in link.reason, "it was made without")
        assert link.state == "waiting-source"
    plain(rabbit_a).queue_delete(ours)


def test_a_parking_queue_may_have_a_name_of_its_own(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    plain(rabbit_b).queue_delete(queue)
    publish(plain, rabbit_a, queue, b"nowhere to go")
    parking = f"{queue}.parked"
    with BridgeProcess(
        tmp_path, rabbit_a.uri, rabbit_b.uri, queue, parking=f"queue://{parking}"
    ) as bridge:
        until(lambda: rabbit_a.queue_depth(queue) == 0, "it is settled")
        assert bridge.stop() == 0
    (message,) = take(plain, rabbit_b, parking)
    assert message.properties["application_headers"]["x-understudy-parked-bridge"] == "test"
    plain(rabbit_b).queue_delete(parking)


TRANSFORMER = """
from understudyd.bridge.transform import Message

def clean(message: Message) -> Message | None:
    if message.headers.get("test") == "true":
        return None
    if message.body == b"bad":
        raise ValueError("a body that nobody wants")
    message.headers["from"] = message.destination
    message.body = message.body.upper()
    return message
"""


def test_a_transformer_changes_drops_and_parks(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 34: what it fails over is parked, and the others go on in their order."""
    (tmp_path / "cleaning.py").write_text(TRANSFORMER, encoding="utf-8")
    publish(plain, rabbit_a, queue, b"one", b"bad", application_headers={"n": {"deep": [1.5]}})
    publish(plain, rabbit_a, queue, b"none", application_headers={"test": True})
    publish(plain, rabbit_a, queue, b"two")
    options = {"transformer": "cleaning:clean", "parking": f"queue://{queue}.parked"}
    with BridgeProcess(tmp_path, rabbit_a.uri, rabbit_b.uri, queue, **options) as bridge:
        until(lambda: rabbit_a.queue_depth(queue) == 0, "all are settled")
        assert bridge.stop() == 0
    one, two = take(plain, rabbit_b, queue)
    assert [body_of(one), body_of(two)] == [b"ONE", b"TWO"]
    headers = one.properties["application_headers"]
    assert headers["from"] == f"queue://{queue}"
    assert headers["n"] == {"deep": [1.5]}
    (parked,) = take(plain, rabbit_a, f"{queue}.parked")
    reason = parked.properties["application_headers"]["x-understudy-parked-reason"]
    assert reason == "cleaning:clean failed: ValueError a body that nobody wants"
    assert body_of(parked) == b"bad"
    plain(rabbit_a).queue_delete(f"{queue}.parked")


def test_duplex_copies_a_topic_both_ways_and_each_message_once(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """B24, scenario 54; B04: with a wildcard, a rename each way, and what is excluded."""
    nodes = (rabbit_a, rabbit_b)
    for node in nodes:
        plain(node).queue_bind(queue, "amq.topic", f"{queue}.#")
    pattern = f"topic://{queue}.out.*"
    options: dict[str, Any] = {
        "duplex": True,
        "statically_included": [pattern],
        "excluded": [f"topic://{queue}.out.secret"],
        "rename": {pattern: f"topic://{queue}.in.*"},
    }
    with BridgeProcess(tmp_path, rabbit_a.uri, rabbit_b.uri, queue, **options) as bridge:
        until(lambda: bridge.log.count("is running") == 2, "both ways")
        for number, node in enumerate(nodes):
            for key in ("a", "secret"):
                message = amqp.Message(b"%d" % number, delivery_mode=2)
                plain(node).basic_publish(message, "amq.topic", f"{queue}.out.{key}")
        until(lambda: all(node.queue_depth(queue) == 3 for node in nodes), "the copies")
        assert bridge.stop() == 0
    for number, node in enumerate(nodes):
        found = [(m.delivery_info["routing_key"], body_of(m)) for m in take(plain, node, queue)]
        assert sorted(found) == [
            (f"{queue}.in.a", b"%d" % (1 - number)),
            (f"{queue}.out.a", b"%d" % number),
            (f"{queue}.out.secret", b"%d" % number),
        ]
        plain(node).queue_delete(f"understudy.bridge.test.{pattern}")


def test_destinations_of_one_bridge_share_its_rate(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 69, as a file says it."""
    other = f"{queue}.other"
    for node in (rabbit_a, rabbit_b):
        plain(node).queue_declare(other, durable=True, auto_delete=False)
    for name in (queue, other):
        publish(plain, rabbit_a, name, *[b"x"] * 30)
    both = [f"queue://{queue}", f"queue://{other}"]
    begun = time.monotonic()
    with BridgeProcess(
        tmp_path, rabbit_a.uri, rabbit_b.uri, queue, statically_included=both, rate=20
    ) as bridge:
        until(lambda: sum(map(rabbit_b.queue_depth, (queue, other))) == 60, "all have arrived")
        assert time.monotonic() - begun > 60 / 20 * 0.9
        assert bridge.stop() == 0
    for node in (rabbit_a, rabbit_b):
        plain(node).queue_delete(other)


def test_what_must_stay_is_there_after_the_bridge_was_killed_at_it(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 14: lost 0, and no more is doubled than a window for each kill."""
    kills = 4
    path = {"x-understudy-path": "elsewhere:5672/"}
    sent = [b"%d" % n for n in range(200)]
    publish(plain, rabbit_a, queue, *sent, application_headers=path)
    bridge = BridgeProcess(tmp_path, rabbit_a.uri, rabbit_b.uri, queue)
    for number in range(kills):
        with bridge:
            until(lambda: bridge.log.count("is running") > number, "it runs")  # noqa: B023
            time.sleep(0.03 * number)  # somewhere in a round
            bridge.kill()
    until(lambda: rabbit_a.queue_depth(queue) >= len(sent), "all came back")
    found = [body_of(message) for message in take(plain, rabbit_a, queue)]
    assert set(found) == set(sent)
    assert len(found) - len(sent) <= 16 * kills
    assert rabbit_b.queue_depth(queue) == 0
