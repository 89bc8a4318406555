"""The two sides of a bridge as a test prepares and looks at them: RabbitMQ over AMQP or STOMP, and
ActiveMQ.

Messages go in and come out as they are on the wire, by clients that are not the bridge's.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeAlias

import amqp
import pika
from pika import spec

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.wire.stomp import FrameParser, RawFrame, encode
from understudyd.bridge.content import AmqpContent, StompContent

__all__ = ["AmqpSide", "Frames", "RawProperties", "Side", "StompSide", "side"]

TIMEOUT = 60  # s, for one answer
UNCONFIRMED = 500  # messages
ACK_EVERY = 50  # messages; ActiveMQ takes no more than 200 out of its store before
MARK = b"the end of what is there"


class AmqpSide:
    """A node of RabbitMQ, over AMQP."""

    kind = "amqp"

    def __init__(self, broker: RabbitMQ) -> None:
        self.broker = broker
        self.uri = broker.uri

    def make(self, queue: str, arguments: Mapping[str, Any] | None = None) -> None:
        """A durable queue, empty."""
        with self._channel() as channel:
            channel.queue_declare(
                queue, durable=True, auto_delete=False, arguments=dict(arguments or {})
            )

    def remove(self, queue: str) -> None:
        with self._channel() as channel:
            channel.queue_delete(queue)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        with self._channel() as channel:
            channel.queue_bind(queue, exchange, key)

    def fill(self, queue: str, bodies: Sequence[bytes]) -> None:
        """Persistent messages, all confirmed."""
        with self._channel() as channel:
            channel.confirm_select()
            acked = [0]
            channel.events["basic_ack"].add(lambda tag, _: acked.append(tag))
            for number, body in enumerate(bodies, 1):
                channel._basic_publish(amqp.Message(body, delivery_mode=2), routing_key=queue)
                while number - max(acked) > UNCONFIRMED:
                    channel.connection.drain_events(timeout=TIMEOUT)
            while max(acked) < len(bodies):
                channel.connection.drain_events(timeout=TIMEOUT)

    def publish(self, exchange: str, key: str, body: bytes) -> None:
        """One persistent message, confirmed."""
        with self._channel() as channel:
            channel.confirm_select()
            channel.basic_publish_confirm(amqp.Message(body, delivery_mode=2), exchange, key)

    def put(self, queue: str, *contents: AmqpContent) -> None:
        """Messages with just these properties, confirmed."""
        with self._raw() as channel:
            channel.confirm_delivery()
            for content in contents:
                given = RawProperties(content.properties)
                channel.basic_publish("", queue, content.body, given, mandatory=True)

    def take(self, queue: str) -> list[AmqpContent]:
        """All that is there."""
        found: list[AmqpContent] = []
        with self._raw() as channel:
            while True:
                method, given, body = channel.basic_get(queue, auto_ack=True)
                if method is None:
                    return found
                found.append(AmqpContent(given.raw, body))

    def depth(self, queue: str) -> int:
        return self.broker.queue_depth(queue)

    @contextmanager
    def _channel(self) -> Iterator[amqp.Channel]:
        host = f"{self.broker.host}:{self.broker.port}"
        with amqp.Connection(host, userid="guest", password="guest") as connection:
            yield connection.channel()

    @contextmanager
    def _raw(self) -> Iterator[Any]:
        before = spec.props[spec.BasicProperties.INDEX]
        spec.props[spec.BasicProperties.INDEX] = RawProperties
        try:
            with closing(pika.BlockingConnection(pika.URLParameters(self.uri))) as connection:
                yield connection.channel()
        finally:
            spec.props[spec.BasicProperties.INDEX] = before


class StompSide:
    """ActiveMQ, or a node of RabbitMQ whose queues are made and looked into over AMQP."""

    def __init__(self, broker: ActiveMQ | RabbitMQ) -> None:
        self.broker = broker
        self._amqp: AmqpSide | None = None
        if isinstance(broker, RabbitMQ):
            self.kind, self.uri, self._port = "rabbitmq-stomp", broker.stomp_uri, broker.stomp_port
            self._amqp = AmqpSide(broker)
        else:
            self.kind, self.uri, self._port = "activemq", broker.uri, broker.port

    def make(self, queue: str, arguments: Mapping[str, Any] | None = None) -> None:
        """ActiveMQ makes its queues by itself."""
        if self._amqp is not None:
            self._amqp.make(queue, arguments)

    def remove(self, queue: str) -> None:
        if self._amqp is not None:
            self._amqp.remove(queue)

    def fill(self, queue: str, bodies: Sequence[bytes]) -> None:
        """Persistent messages of bytes, all with their receipts."""
        headers = {"persistent": "true"}
        self.put(
            queue,
            *[StompContent({**headers, "content-length": str(len(body))}, body) for body in bodies],
        )

    def put(self, queue: str, *contents: StompContent) -> None:
        with self.connected() as connection:
            for number, content in enumerate(contents, 1):
                told = {"destination": self.address(queue), "receipt": str(number)}
                connection.write("SEND", {**told, **content.headers}, content.body)
                if number > UNCONFIRMED:
                    connection.read("RECEIPT")
            for _ in contents[-UNCONFIRMED:]:
                connection.read("RECEIPT")

    def take(self, queue: str) -> list[StompContent]:
        """All that is there, as a consumer of STOMP sees it; ActiveMQ keeps persistent messages in
        order, and transient ones, but not both together."""
        self.put(queue, StompContent({}, MARK), StompContent({"persistent": "true"}, MARK))
        found: list[StompContent] = []
        marks = 2
        with self.connected() as connection:
            connection.subscribe(self.address(queue))
            while marks:
                frame = connection.read("MESSAGE")
                if frame.body == MARK:
                    marks -= 1
                    continue
                found.append(StompContent(frame.headers, frame.body))
                if len(found) % ACK_EVERY == 0:
                    connection.write("ACK", {"id": frame.headers["ack"]})
            connection.write("ACK", {"id": frame.headers["ack"], "receipt": "acked"})
            connection.read("RECEIPT")
        return found

    def put_from_java(self, queue: str, text: str, *, persistent: bool = True) -> None:
        """A text as a producer of JMS sends it; ActiveMQ only."""
        assert isinstance(self.broker, ActiveMQ)
        self.broker.produce(queue, text, persistent=persistent)

    def depth(self, queue: str) -> int:
        """Only RabbitMQ tells."""
        assert self._amqp is not None
        return self._amqp.depth(queue)

    def address(self, queue: str) -> str:
        return f"/queue/{queue}" if self._amqp is None else f"/amq/queue/{queue}"

    @contextmanager
    def connected(self) -> Iterator[Frames]:
        assert self._port is not None
        with closing(Frames(self.broker.host, self._port)) as connection:
            yield connection
            connection.write("DISCONNECT", {"receipt": "end"})
            connection.read("RECEIPT")


Side: TypeAlias = "AmqpSide | StompSide"


def side(kind: str, broker: RabbitMQ | ActiveMQ) -> Side:
    """``kind`` is amqp, rabbitmq-stomp or activemq."""
    if kind == "amqp":
        assert isinstance(broker, RabbitMQ)
        return AmqpSide(broker)
    return StompSide(broker)


class Frames:
    """A connection of bare frames."""

    def __init__(self, host: str, port: int, client_id: str = "") -> None:
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT)
        self._parser = FrameParser()
        self._frames: list[RawFrame] = []
        login = {"login": "guest", "passcode": "guest", "host": "/", "accept-version": "1.2"}
        self.write("CONNECT", login | ({"client-id": client_id} if client_id else {}))
        self.server = self.read("CONNECTED").headers["server"]

    def write(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        self._socket.sendall(encode(command, headers, body))

    def read(self, command: str) -> RawFrame:
        """The next frame of this command; others wait for their turn."""
        while True:
            for place, frame in enumerate(self._frames):
                assert frame.command != "ERROR", (frame.headers, frame.body)
                if frame.command == command:
                    return self._frames.pop(place)
            data = self._socket.recv(1 << 20)
            assert data, "the broker has closed the connection"
            self._frames += self._parser.feed(data)

    def subscribe(self, destination: str) -> None:
        told = {"destination": destination, "id": "0", "receipt": "in", "ack": "client"}
        many = {"activemq.prefetchSize": "1000", "prefetch-count": "0"}
        self.write("SUBSCRIBE", told | many)
        self.read("RECEIPT")

    def wait_no_longer_than(self, seconds: float) -> None:
        """TimeoutError when nothing comes for so long."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()


class RawProperties(spec.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties that stay the bytes they are."""

    def __init__(self, raw: bytes = b"\0\0") -> None:
        super().__init__()
        self.raw = raw

    def encode(self) -> list[bytes]:
        return [self.raw]

    def decode(self, encoded: bytes, offset: int = 0) -> RawProperties:
        self.raw = bytes(encoded[offset:])
        return self
