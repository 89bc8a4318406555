"""The mapping against what RabbitMQ and ActiveMQ really make of a message.

Messages are put in by pika or bare STOMP, go through the mapping to a second broker, are read there
and go back: what comes out is what was put in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pika
import pytest
from pika import spec

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.addresses import from_stomp, subscribe_headers, to_stomp
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.dialects import ACTIVEMQ, RABBITMQ_AMQP, Dialect, of_stomp
from understudyd.bridge.names import QUEUE, TOPIC, Destination, Pattern
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.wire import properties
from understudyd.bridge.wire.tables import Typed, Value
from understudyd.testing.sides import Frames, RawProperties
from understudyd.testing.translated import translate

pytestmark = pytest.mark.integration


class Stomp(Frames):
    """A connection of bare frames that knows its dialect."""

    def __init__(self, broker: RabbitMQ | ActiveMQ, client_id: str = "") -> None:
        port = broker.stomp_port if isinstance(broker, RabbitMQ) else broker.port
        assert port is not None
        super().__init__(broker.host, port, client_id)
        dialect = of_stomp(self.server)
        assert dialect is not None
        self.dialect = dialect

    def send(self, destination: str, content: StompContent) -> None:
        self.write(
            "SEND",
            {"destination": destination, "receipt": "sent", **content.headers},
            content.body,
        )
        self.read("RECEIPT")

    def read_from(self, destination: str, **headers: str) -> None:
        told = {"destination": destination, "id": "0", "receipt": "in", "ack": "client-individual"}
        self.write("SUBSCRIBE", told | headers)
        self.read("RECEIPT")

    def take(self) -> StompContent:
        frame = self.read("MESSAGE")
        self.write("ACK", {"id": frame.headers["ack"], "receipt": "taken"})
        self.read("RECEIPT")
        return StompContent(frame.headers, frame.body)

    def leave(self) -> None:
        """Wait until the broker has seen the end."""
        self.write("DISCONNECT", {"receipt": "end"})
        self.read("RECEIPT")


class Amqp:
    """A queue of RabbitMQ."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._channel = channel
        self.queue = queue
        channel.queue_declare(queue, durable=True)

    def put(self, content: AmqpContent) -> None:
        given = RawProperties(content.properties)
        self._channel.basic_publish("", self.queue, content.body, given, mandatory=True)

    def take(self) -> AmqpContent:
        method, given, body = self._channel.basic_get(self.queue, auto_ack=True)
        assert method is not None, "the queue is empty"
        return AmqpContent(given.raw, body)


@pytest.fixture
def amqp(rabbit_a: RabbitMQ, unique: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Amqp]:
    monkeypatch.setitem(spec.props, spec.BasicProperties.INDEX, RawProperties)
    with closing(pika.BlockingConnection(pika.URLParameters(rabbit_a.uri))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield Amqp(channel, unique)
        channel.queue_delete(unique)


@pytest.fixture
def stomp(stomp_broker: RabbitMQ | ActiveMQ) -> Iterator[Stomp]:
    with closing(Stomp(stomp_broker)) as connection:
        yield connection


@contextmanager
def stomp_queue(stomp: Stomp, amqp: Amqp) -> Iterator[str]:
    """The name of a queue that both, or the STOMP broker alone, can use."""
    name = f"{amqp.queue}-stomp"
    if stomp.dialect is not ACTIVEMQ:
        amqp._channel.queue_declare(name, durable=True)
    yield to_stomp(Destination(QUEUE, name), stomp.dialect)
    if stomp.dialect is not ACTIVEMQ:
        amqp._channel.queue_delete(name)


def now() -> int:
    return time.time_ns() // 1_000_000


def stomp_of(content: AmqpContent, dialect: Dialect) -> StompContent:
    sent = translate(content, RABBITMQ_AMQP, dialect, now())
    assert isinstance(sent, StompContent)
    return sent


def amqp_of(content: StompContent, dialect: Dialect) -> AmqpContent:
    sent = translate(content, dialect, RABBITMQ_AMQP, now())
    assert isinstance(sent, AmqpContent)
    return sent


EVIL = "\n\nfoo\0SEND\ndestination:/queue/other\n\n\0"
TABLE: dict[str, Value] = {
    "float": 1.75,
    "float32": Typed("f", 0.5),
    "least": -(1 << 63),
    "void": None,
    "flag": True,
    "bytes": b"\0\xff",
    "nested": {"list": [1, "b", None, {"x": 2.5, "y": []}]},
    "when": Typed("T", 1_700_000_000_123),
    "long": "é:\\" * 20_000,
    "x-death": [{"count": 1, "queue": "q"}],
}
NAMES: dict[str, Value] = dict.fromkeys(
    [
        *[
            "",
            "a:b",
            "a\nb",
            "\0",
            "é😀",
            " a ",
            "=",
            "destination",
            "receipt",
            "message-id",
            "ack",
        ],
        *["content-length", "persistent", "priority", "expires", "timestamp", "JMSXGroupSeq", "id"],
        *["user-id", "expiration", "AMQ_SCHEDULED_DELAY", "transformation", "selector"],
    ],
    EVIL,
)
MESSAGES: dict[str, tuple[dict[str, Value], bytes]] = {
    "bare": ({}, b""),
    "transient": ({"delivery_mode": 1, "priority": 4}, b"a"),
    "usual": ({"delivery_mode": 2, "content_type": "application/json", "priority": 0}, b"{}"),
    "text-6": ({"content_type": "text/plain", "headers": TABLE}, "grüße 😀".encode()),
    "body-3": ({"content_type": "text/plain"}, b"\0\r\n\n" + bytes(range(256)) + b"\n"),
    "stamp-7": ({"timestamp": 1_700_000_000_123}, b"a\n"),
    "names-8": ({"headers": NAMES}, b"a"),
    "values-8": ({"correlation_id": EVIL, "type": "\udcff", "app_id": "a:b\\c"}, b"a"),
    "priority-9": ({"priority": 255}, b"a"),
    "ids-12": ({"correlation_id": "c", "message_id": "m", "reply_to": "q", "type": "t"}, b"a"),
    "private-12": ({"reply_to": "amq.gen-x", "content_encoding": "gzip", "app_id": "a"}, b"a"),
    "group": ({"headers": {"JMSXGroupID": "g", "JMSXGroupSeq": 3}}, b"a"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_amqp_through_a_stomp_broker_comes_back(name: str, amqp: Amqp, stomp: Stomp) -> None:
    fields, body = MESSAGES[name]
    original = AmqpContent(properties.build(fields), body)
    amqp.put(original)
    with stomp_queue(stomp, amqp) as queue:
        stomp.send(queue, stomp_of(amqp.take(), stomp.dialect))
        stomp.read_from(queue)
        amqp.put(amqp_of(stomp.take(), stomp.dialect))
    back = amqp.take()
    assert back.body == body
    found = properties.read(back.properties)
    if "message_id" not in fields:
        found.pop("message_id", None)  # ActiveMQ's own
    assert found == fields


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({"content-length": "0"}, b""),
        ({}, "grüße 😀\n".encode()),
        ({}, b"as Java writes it: \xed\xa0\xbd\xed\xb8\x80 \xc0\x80"),
        ({"content-length": "3"}, b"a\0b"),
        ({"persistent": "true", "priority": "7", "type": "t", "correlation-id": "c" * 300}, b"a"),
        ({"reply-to": "/queue/answers", "content-type": "text/csv", "timestamp": "12345"}, b"a"),
        ({"reply-to": "/topic/answers", "app-id": "a", "x": "a:b\\c\r\nd", "üñ": ""}, b"a"),
        ({"JMSXGroupID": "g", "expires": "9223372036854775807"}, b"a"),
    ],
)
def test_activemq_through_rabbitmq_comes_back(
    headers: dict[str, str], body: bytes, activemq: ActiveMQ, amqp: Amqp
) -> None:
    queue = f"/queue/{amqp.queue}"
    with closing(Stomp(activemq)) as stomp:
        if "JMSXGroupID" in headers:  # which no MESSAGE would show
            headers = headers | {"x-understudy-group": "g"}
        stomp.send(queue, StompContent(headers, body))
        stomp.read_from(queue)
        first = stomp.take()
        amqp.put(amqp_of(first, ACTIVEMQ))
        stomp.send(queue, stomp_of(amqp.take(), ACTIVEMQ))
        again = stomp.take()
    for own in ("message-id", "ack"):
        del again.headers[own]
    del first.headers["ack"]
    first.headers["amqp-message-id"] = first.headers.pop("message-id")
    assert again.headers == first.headers
    assert again.body == body


def test_10_a_time_to_live_runs_on_through_a_queue_of_rabbitmq(
    activemq: ActiveMQ, amqp: Amqp
) -> None:
    deadline = now() + 600_000
    with closing(Stomp(activemq)) as stomp:
        queue = f"/queue/{amqp.queue}"
        stomp.send(queue, StompContent({"expires": str(deadline)}, b""))
        stomp.read_from(queue)
        amqp.put(amqp_of(stomp.take(), ACTIVEMQ))
        back = stomp_of(amqp.take(), ACTIVEMQ)
    assert back.headers["expires"] == str(deadline)


def test_12_a_correlation_id_too_long_for_amqp_poisons_no_queue(
    rabbit_a: RabbitMQ, amqp: Amqp
) -> None:
    """Sent as a property over RabbitMQ's STOMP, it would end each consumer's connection."""
    sent = StompContent({"correlation-id": "c" * 300}, b"a")
    with closing(Stomp(rabbit_a)) as stomp:
        content = translate(sent, ACTIVEMQ, stomp.dialect, now())
        assert isinstance(content, StompContent)
        stomp.send(to_stomp(Destination(QUEUE, amqp.queue), stomp.dialect), content)
    got = stomp_of(amqp.take(), ACTIVEMQ)
    assert got.headers["correlation-id"] == "c" * 300


@pytest.mark.parametrize("network_ttl", [1, 2, -1])
def test_the_selector_leaves_what_may_not_go_on(
    network_ttl: int, activemq: ActiveMQ, unique: str
) -> None:
    routes = Routes(Options(network_ttl=network_ttl), "here", "t_%")
    queue, at = f"/queue/{unique}", Destination(QUEUE, unique)
    paths = ["", "c", "c,d", routes.there, f"c,{routes.there}", "tx%25", "last"]
    with closing(Stomp(activemq)) as stomp:
        for path in paths:
            named = {"x_understudy_path": path} if path else {}
            stomp.send(queue, StompContent({"path": path, **named}, b""))
        stomp.send(queue, StompContent({"path": "end"}, b""))
        stomp.read_from(queue, selector=routes.selector())
        got = []
        while (path := stomp.take().headers["path"]) != "end":
            got.append(path)
    assert got == [path for path in paths if routes.decide(at, path).target is not None]


@pytest.mark.parametrize("name", ["a/b%c", "a b", "q:x", "a.b", "é", "%41"])
def test_a_queue_of_rabbitmq_is_reached_by_its_name(
    name: str, rabbit_a: RabbitMQ, amqp: Amqp, unique: str
) -> None:
    queue = Amqp(amqp._channel, f"{name}-{unique}")
    with closing(Stomp(rabbit_a)) as stomp:
        destination = to_stomp(Destination(QUEUE, queue.queue), stomp.dialect)
        stomp.send(destination, StompContent({}, b"there"))
        stomp.read_from(destination)
        shown = stomp.take()
        queue.put(AmqpContent(b"\0\0", b"again"))
        again = stomp.take()
    assert (shown.body, again.body) == (b"there", b"again")
    found = from_stomp(shown.headers["destination"], QUEUE, stomp.dialect)
    assert found == Destination(QUEUE, queue.queue)
    amqp._channel.queue_delete(queue.queue)


def test_topics_are_the_same_over_stomp_and_amqp(
    rabbit_a: RabbitMQ, amqp: Amqp, unique: str
) -> None:
    key = f"{unique}.a/b"
    amqp._channel.queue_bind(amqp.queue, "amq.topic", f"{unique}.#")
    with closing(Stomp(rabbit_a)) as stomp:
        destination = to_stomp(Destination(TOPIC, key), stomp.dialect)
        stomp.send(destination, StompContent({}, b"there"))
    assert amqp.take().body == b"there"


def test_a_durable_subscription_keeps_what_comes_while_nobody_is_there(
    stomp_broker: RabbitMQ | ActiveMQ, rabbit_a: RabbitMQ, unique: str
) -> None:
    pattern, at = Pattern.parse(f"topic://{unique}.>"), Destination(TOPIC, f"{unique}.x")
    for body in (b"", b"while away"):
        with closing(Stomp(stomp_broker, client_id=unique)) as stomp:
            asked = subscribe_headers(pattern, stomp.dialect, window=1, durable=unique)
            stomp.read_from(asked.pop("destination"), **asked)
            if body:
                assert stomp.take().body == body
            stomp.leave()
        with closing(Stomp(stomp_broker)) as other:
            sent = StompContent({"persistent": "true"}, b"while away")
            other.send(to_stomp(at, other.dialect), sent)
    if isinstance(stomp_broker, RabbitMQ):
        with closing(pika.BlockingConnection(pika.URLParameters(rabbit_a.uri))) as connection:
            connection.channel().queue_delete(unique)
    else:
        with closing(Stomp(stomp_broker, client_id=unique)) as stomp:
            stomp.write(
                "UNSUBSCRIBE", {"id": "0", "activemq.subscriptionName": unique, "receipt": "gone"}
            )
            stomp.read("RECEIPT")
