"""Links between any two kinds of brokers: what arrives is what was sent, and all of it.

Brokers are shared: two nodes of RabbitMQ, which speak AMQP and STOMP, and one ActiveMQ, which is
both ends of its pair under two names.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.wire.properties import build, read
from understudyd.bridge.wire.tables import Table
from understudyd.testing.bridged import BridgeProcess, RunningLink, until
from understudyd.testing.messages import EVERYTHING, EVIL
from understudyd.testing.pairs import PAIRS, Pair, over
from understudyd.testing.sides import AmqpSide, Side, StompSide

pytestmark = pytest.mark.integration

BODIES = {
    "empty": b"",
    "NUL": b"\0",
    "line ends": b"\r\n\0\xce\n",
    "every byte": bytes(range(256)) * 3,
    "UTF-8": "é\U0001f600".encode(),
    "3 MB": b"0123456789" * 300_000,
}


every_pair = over(*PAIRS)


@every_pair
def test_thousands_of_mixed_sizes_arrive_equal_and_in_order(pair: Pair) -> None:
    """Scenarios 1, 3, 38, 43; J01."""
    rng = random.Random(7)
    sizes = [1, 100, 1024, 5000, 131_072, 300_000]
    sent = [
        b"%06d" % n + rng.randbytes(rng.choice(sizes) if n % 50 == 0 else rng.randrange(300))
        for n in range(2_000)
    ]
    sent += [b"the same"] * 3
    pair.source.fill(pair.here, sent)
    pair.move(len(sent))
    assert pair.arrived() == sent
    assert pair.left() == []


@over(("rabbitmq-stomp", "amqp"), ("activemq", "amqp"))
def test_what_amqp_says_comes_back_through_stomp(
    pair: Pair, rabbit_a: RabbitMQ, unique: str
) -> None:
    """Scenarios 2, 3, 6, 7, 8, 9, 12: there by one link, back by another; every type, no frame
    made of a value, and the same bytes in the same kind."""
    first = Pair(AmqpSide(rabbit_a), pair.source, f"{unique}.amqp")
    first.make()
    contents = [AmqpContent(build(EVERYTHING), b"{}")]
    contents += [AmqpContent(build({}), body) for body in BODIES.values()]
    assert isinstance(first.source, AmqpSide)
    first.source.put(first.here, *contents)
    rename = {f"queue://{first.here}": f"queue://{pair.here}"}
    first.move(len(contents), rename=rename, here="a/", there="b/")
    pair.move(len(contents), here="b/", there="c/")
    assert isinstance(pair.target, AmqpSide)
    found = pair.target.take(pair.there)
    assert [content.body for content in found] == [content.body for content in contents]
    for before, after in zip(contents, found, strict=True):
        wanted, given = read(before.properties), read(after.properties)
        headers, shown = wanted.pop("headers", {}), given.pop("headers")
        assert isinstance(headers, dict)
        assert shown == {**headers, "x-understudy-path": "a/,b/"}
        if "message_id" not in wanted:
            given.pop("message_id", None)  # ActiveMQ's own
        assert given == wanted
    first.remove()


@over(("activemq", "amqp"), ("activemq", "rabbitmq-stomp"), ("activemq", "activemq"))
def test_text_and_bytes_of_activemq_come_back_in_their_kind(pair: Pair, activemq: ActiveMQ) -> None:
    """Scenarios 2 and 13: an empty text of STOMP too, and characters of four bytes."""
    home = Pair(pair.target, StompSide(activemq), f"{pair.here}.home")
    sent = [
        StompContent({"persistent": "true", "color": "bl\u00fce:\n"}, "é\U0001f600".encode()),
        StompContent({"persistent": "true"}, b""),
        StompContent({"content-length": "0"}, b""),
        StompContent({"content-length": "3", "priority": "9", "correlation-id": "c"}, b"a\0b"),
        StompContent({"content-length": "2"}, b"ab"),
    ]
    assert isinstance(pair.source, StompSide)
    pair.source.put(pair.here, *sent)
    pair.move(len(sent), here="a/", there="b/")
    rename = {f"queue://{pair.there}": f"queue://{home.there}"}
    home.here = pair.there
    home.move(len(sent), rename=rename, here="b/", there="c/")
    assert isinstance(home.target, StompSide)
    found = home.target.take(home.there)
    assert [(c.body, c.has_length) for c in found] == [(c.body, c.has_length) for c in sent]
    assert [c.headers.get("persistent") for c in found] == ["true", "true", None, None, None]
    assert found[0].headers["color"] == "bl\u00fce:\n"
    assert (found[3].headers["priority"], found[3].headers["correlation-id"]) == ("9", "c")


@over(("amqp", "activemq"), ("activemq", "amqp"), ("rabbitmq-stomp", "amqp"))
def test_a_time_to_live_goes_on_and_does_not_begin_anew(pair: Pair) -> None:
    """Scenarios 10 and 11: what has expired before it is sent is settled, and not sent."""
    now = int(time.time() * 1000)
    near, far = now + 300, now + 600_000
    if isinstance(pair.source, AmqpSide):
        deadlines: list[Table] = [
            {"x-understudy-deadline": f"{moment} 86400000"} for moment in (near, far)
        ]
        pair.source.put(
            pair.here,
            *[
                AmqpContent(build({"expiration": "86400000", "headers": headers}), b"%d" % number)
                for number, headers in enumerate(deadlines)
            ],
        )
    elif pair.source.kind == "activemq":
        times = [str(far), "0", "-1"]
        pair.source.put(
            pair.here, *[StompContent({"expires": t}, b"%d" % n) for n, t in enumerate(times, 1)]
        )
        pair.source.put(pair.here, StompContent({"expires": "9" * 18}, b"4"))
    else:
        told = {"expiration": "86400000", "x-understudy-deadline": f"{near} 86400000"}
        pair.source.put(pair.here, StompContent(told, b"0"), StompContent({}, b"1"))
    time.sleep(max(0.0, near / 1000 - time.time()))
    with pair.link() as link:
        until(lambda: link.forwarded and not link.in_flight, "all is settled")
    assert b"0" not in (arrived := pair.arrived())
    assert b"1" in arrived
    assert pair.left() == []


def wide_headers(count: int) -> Table:
    return {f"h{number}": "x" for number in range(count)}


@over(("amqp", "activemq"))
def test_what_the_target_cannot_take_is_parked_at_the_source(pair: Pair) -> None:
    """Scenarios 5 and 34, B20: with its reason and whole; the link goes on, in order."""
    source, target = pair.source, pair.target
    assert isinstance(source, AmqpSide)
    many = AmqpContent(build({"headers": wide_headers(1100), "priority": 3}), b"many")
    plain = [AmqpContent(build({}), b"%d" % n) for n in range(20)]
    source.put(pair.here, *plain[:10], many, *plain[10:], many)
    with pair.link() as link:
        until(lambda: link.parked == 2 and not link.in_flight, "all is settled")
        assert link.forwarded == 20
        assert link.state == "running"
    assert [content.body for content in target.take(pair.there)] == [c.body for c in plain]
    parked = source.take(pair.parking)
    assert [content.body for content in parked] == [b"many", b"many"]
    fields = read(parked[0].properties)
    headers = fields.pop("headers")
    assert isinstance(headers, dict)
    assert fields == {"priority": 3, "delivery_mode": 2}
    assert wide_headers(1100).items() <= headers.items()
    assert "headers; ActiveMQ takes 990" in str(headers["x-understudy-parked-reason"])
    assert headers["x-understudy-parked-routing-key"] == pair.here


@over(("activemq", "amqp"), ("activemq", "rabbitmq-stomp"))
def test_what_amqp_cannot_hold_is_parked_at_activemq(pair: Pair) -> None:
    """The same the other way: a header's name of more than 255 bytes."""
    source = pair.source
    assert isinstance(source, StompSide)
    long = {"x" * 300: "1", "persistent": "true"}
    source.put(pair.here, StompContent(long, b"text"), StompContent({"persistent": "true"}, b"ok"))
    with pair.link() as link:
        link.await_forwarded(1)
        until(lambda: not link.in_flight, "all is settled")
        parked = link.parked
    arrived = pair.arrived()
    if pair.target.kind == "rabbitmq-stomp":  # it is put into a sidecar there
        assert (sorted(arrived), parked) == ([b"ok", b"text"], 0)
        return
    assert (arrived, parked) == ([b"ok"], 1)
    (found,) = source.take(pair.parking)
    assert found.body == b"text"
    assert not found.has_length
    assert found.headers["x" * 300] == "1"
    assert found.headers["x-understudy-parked-reason"].startswith("AMQP cannot hold it")


@over(("rabbitmq-stomp", "amqp"), ("rabbitmq-stomp", "activemq"))
def test_no_header_of_amqp_can_stop_a_source_of_stomp(pair: Pair) -> None:
    """Scenarios 8 and 34: a NUL, which RabbitMQ sends as it is, and names of STOMP's own."""
    assert isinstance(pair.source.broker, RabbitMQ)
    names = ["content-length", "ack", "message-id", "subscription", "destination", "", "a\nb:"]
    tables: list[Table] = [{"a": "x\0y", "b": EVIL}]
    tables += [{name: "9"} for name in names]
    bodies = [b"%d" % number for number in range(len(tables))]
    AmqpSide(pair.source.broker).put(
        pair.here,
        *[
            AmqpContent(build({"headers": table, "delivery_mode": 2}), body)
            for table, body in zip(tables, bodies, strict=True)
        ],
    )
    pair.move(len(tables))
    found = pair.target.take(pair.there)
    assert [content.body for content in found] == bodies
    if isinstance(found[0], AmqpContent):
        shown = read(found[0].properties)["headers"]
        assert shown == {**tables[0], "x-understudy-path": "source/"}
    assert pair.left() == []


@over(("activemq", "amqp"), ("rabbitmq-stomp", "amqp"))
def test_what_no_queue_takes_is_parked_at_the_target(pair: Pair) -> None:
    """Scenarios 22 and 27: a queue that is not there; with its reason."""
    pair.target.remove(pair.there)
    pair.source.fill(pair.here, [b"1", b"2"])
    with pair.link() as link:
        until(lambda: link.parked == 2 and not link.in_flight, "both are parked")
    assert isinstance(pair.target, AmqpSide)
    parked = pair.target.take(pair.parking)
    assert [content.body for content in parked] == [b"1", b"2"]
    headers = read(parked[0].properties)["headers"]
    assert isinstance(headers, dict)
    reason = f"312 NO_ROUTE: no queue {pair.there} at the target"
    assert headers["x-understudy-parked-reason"] == reason
    assert pair.left() == []


@over(("activemq", "amqp"))
def test_an_empty_text_of_java_which_may_be_a_map_is_not_lost(pair: Pair) -> None:
    """ActiveMQ itself puts it away; a transient one, which it would drop there, stays where it is,
    and others go on."""
    source = pair.source
    assert isinstance(source, StompSide)
    source.put_from_java(pair.here, "")
    source.put_from_java(pair.here, "", persistent=False)
    source.put_from_java(pair.here, "text")
    source.fill(pair.here, [b"after"])
    with pair.link(settings=LinkSettings(drain_time=0.2)) as link:
        link.await_forwarded(2)
        until(lambda: link.parked == 1, "one is put away")
        until(lambda: "ActiveMQ shows no content" in link.reason, "the other one is the reason")
        assert link.in_flight >= 1
        link.stop()
        assert link.is_over_within(30)
    assert pair.arrived() == [b"text", b"after"]
    (still,) = source.take(pair.here)
    assert (still.body, still.headers.get("persistent")) == (b"", None)
    dead = source.take("ActiveMQ.DLQ")
    assert [content.body for content in dead if content.headers["persistent"] == "true"] == [b""]


@every_pair
def test_a_stop_under_load_settles_what_is_in_flight_and_doubles_nothing(pair: Pair) -> None:
    """Scenario 20."""
    sent = [b"%06d" % n + b"x" * 200 for n in range(4_000)]
    pair.source.fill(pair.here, sent)
    with pair.link() as link:
        link.await_forwarded(500)
        link.stop()
        assert link.is_over_within(20)
    arrived = pair.arrived()
    assert arrived == sent[: len(arrived)]
    assert pair.left() == sent[len(arrived) :]


TOPIC_PAIRS = [("amqp", "activemq"), ("activemq", "amqp"), ("rabbitmq-stomp", "activemq")]


@over(*TOPIC_PAIRS)
def test_a_topic_is_copied_also_what_came_while_no_bridge_ran(pair: Pair) -> None:
    """J01, B28: renamed, without what is excluded."""
    pattern = f"topic://{pair.here}.in.*"
    options: dict[str, Any] = {
        "excluded": [f"topic://{pair.here}.in.secret"],
        "rename": {pattern: f"queue://{pair.there}"},
        "dynamically_included": [pattern],
        "name": pair.here,
        "network_ttl": -1,
    }

    def tell(*bodies: bytes) -> None:
        for body in bodies:
            for key in ("a", "secret", "a.b"):
                publish_topic(pair.source, f"{pair.here}.in.{key}", body + key.encode())

    def link() -> RunningLink:
        return RunningLink(pair.source.uri, pair.target.uri, pattern, **options)

    with link() as running:
        running.await_state("running")
        tell(b"1", b"2")
        running.await_forwarded(2)
        until(lambda: not running.in_flight, "all is settled")
    tell(b"3")
    with link() as running:
        running.await_forwarded(1)
        until(lambda: not running.in_flight, "all is settled")
    assert pair.arrived() == [b"1a", b"2a", b"3a"]
    durable = f"understudy.bridge.{pair.here}.{pattern}"
    if isinstance(pair.source.broker, RabbitMQ):
        assert AmqpSide(pair.source.broker).depth(durable) == 0
        AmqpSide(pair.source.broker).remove(durable)


def publish_topic(source: Side, key: str, body: bytes) -> None:
    if isinstance(source.broker, RabbitMQ):
        AmqpSide(source.broker).publish("amq.topic", key, body)
    else:
        assert isinstance(source, StompSide)
        with source.connected() as connection:
            told = {"destination": f"/topic/{key}", "receipt": "1", "persistent": "true"}
            connection.write("SEND", told, body)
            connection.read("RECEIPT")


def test_the_example_of_the_readme_joins_an_activemq_and_a_rabbitmq(
    tmp_path: Path, rabbit_a: RabbitMQ, activemq: ActiveMQ
) -> None:
    """Two kinds of brokers in ten lines: a queue that is renamed, a topic, an exclusion."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = readme.split("# bridges.toml\n")[1].split("```")[0]
    assert len(example.splitlines()) <= 10
    here, there = StompSide(activemq), AmqpSide(rabbit_a)
    for shown, real in (
        ("stomp://app:secret@branch-activemq", here.uri),
        ("amqp://app:secret@hq1", rabbit_a.uri),
        ("amqp://app:secret@hq2", rabbit_a.uri.replace("127.0.0.1", "localhost")),
    ):
        assert shown in example
        example = example.replace(shown, real)
    here.fill("orders", [b"order"])
    there.make("orders.branch")
    there.make("prices")
    there.bind("prices", "amq.topic", "prices.*")
    with BridgeProcess.of(tmp_path, example) as bridge:
        until(lambda: bridge.log.count("is running") == 2, "both links run")
        for key in ("test", "nyse"):
            publish_topic(here, f"prices.{key}", key.encode())
        until(lambda: there.depth("orders.branch") and there.depth("prices"), "both have arrived")
        assert bridge.stop() == 0
        assert [content.body for content in there.take("orders.branch")] == [b"order"]
        assert [content.body for content in there.take("prices")] == [b"nyse"]
    for queue in ("orders.branch", "prices", "understudy.parking.orders-to-hq"):
        there.remove(queue)
