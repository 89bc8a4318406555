"""Brokers as scenarios see them: how a member is written, and a look into queues.

Looking is done over plain clients (py-amqp, stomp.py), past all proxies and adapters.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import amqp
import stomp

from understudy.testing.brokers import ActiveMQ, RabbitMQ, Server

__all__ = ["ActivePlace", "Found", "Place", "RabbitPlace"]

ID, RESEND = "x-understudy-id", "x-understudy-resend"
PATIENCE = 60.0  # s for a healthy broker to answer a plain client


@dataclass(frozen=True)
class Found:
    """A message as it lies in a queue."""

    body: str
    id: str = ""
    is_resend: bool = False


class Place(Protocol):
    server: Server
    host: str
    port: int

    def address(self, host: str, port: int, login: str = "") -> str:
        """How a member of a failover URI is written that is reached there."""

    def declare(self, queue: str) -> None:
        """Make an empty durable queue."""

    def subscribe(self, name: str) -> tuple[str, str]:
        """Make a topic and a durable queue that gets what is sent to it; returns both."""

    def fill(self, queue: str, *bodies: str) -> None:
        """Put messages in, confirmed."""

    def publish(self, topic: str, *bodies: str) -> None:
        """Send to a topic, confirmed."""

    def take_all(self, queue: str) -> list[Found]:
        """Take everything out, in order."""

    def settle(self) -> None:
        """Make what was declared survive a SIGKILL."""


class RabbitPlace:
    """A RabbitMQ node, reached over AMQP or over STOMP."""

    def __init__(self, server: RabbitMQ, protocol: Literal["amqp", "stomp"]) -> None:
        self.server: Server = server
        self._rabbit = server
        self._protocol = protocol
        self.host = server.host
        port = server.port if protocol == "amqp" else server.stomp_port
        assert port is not None, "the node must be started with stomp=True"
        self.port = port

    def address(self, host: str, port: int, login: str = "guest:guest@") -> str:
        end = "//" if self._protocol == "amqp" else ""
        return f"{self._protocol}://{login}{host}:{port}{end}"

    def declare(self, queue: str) -> None:
        with self._channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False)

    def subscribe(self, name: str) -> tuple[str, str]:
        self.declare(name)
        with self._channel() as channel:
            channel.queue_bind(name, "amq.topic", name)
        return name, name

    def fill(self, queue: str, *bodies: str) -> None:
        self.declare(queue)
        self._publish("", queue, bodies)

    def publish(self, topic: str, *bodies: str) -> None:
        self._publish("amq.topic", topic, bodies)

    def _publish(self, exchange: str, key: str, bodies: Iterable[str]) -> None:
        with self._channel(confirm=True) as channel:
            for body in bodies:
                channel.basic_publish(amqp.Message(body, delivery_mode=2), exchange, key)

    def take_all(self, queue: str) -> list[Found]:
        found = []
        with self._channel() as channel:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                headers = message.properties.get("application_headers") or {}
                identity = message.properties.get("message_id") or headers.get(ID) or ""
                found.append(Found(_text(message.body), str(identity), bool(headers.get(RESEND))))
        return found

    def settle(self) -> None:
        self._rabbit.settle()

    @contextlib.contextmanager
    def _channel(self, confirm: bool = False) -> Iterator[Any]:
        rabbit = self._rabbit
        connection = amqp.Connection(
            f"{rabbit.host}:{rabbit.port}",
            userid="guest",
            password="guest",
            confirm_publish=confirm,
        )
        connection.connect()
        try:
            yield connection.channel()
        finally:
            connection.close()


class ActivePlace:
    """An ActiveMQ Classic, reached over STOMP. Its queues come into being by being used."""

    def __init__(self, server: ActiveMQ) -> None:
        self.server: Server = server
        self.host, self.port = server.host, server.port

    def address(self, host: str, port: int, login: str = "") -> str:
        return f"stomp://{login}{host}:{port}"

    def declare(self, queue: str) -> None:
        pass

    def subscribe(self, name: str) -> tuple[str, str]:
        """A virtual topic: the queue exists once somebody has asked for it."""
        topic = f"VirtualTopic.{name}"
        queue = f"Consumer.all.{topic}"
        self.take_all(queue)
        return topic, queue

    def fill(self, queue: str, *bodies: str) -> None:
        self._put(f"/queue/{queue}", bodies)

    def publish(self, topic: str, *bodies: str) -> None:
        self._put(f"/topic/{topic}", bodies)

    def _put(self, destination: str, bodies: Iterable[str]) -> None:
        with _PlainStomp(self.host, self.port) as plain:
            for body in bodies:
                plain.put(destination, body)

    def take_all(self, queue: str) -> list[Found]:
        """Everything before a mark that is put behind it."""
        with _PlainStomp(self.host, self.port) as plain:
            mark = f"mark-{secrets.token_hex(8)}"
            plain.put(f"/queue/{queue}", mark)
            return plain.take_until(queue, mark)

    def settle(self) -> None:
        pass


class _PlainStomp(stomp.ConnectionListener):
    """One plain connection of stomp.py's, used by one thread."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = stomp.Connection12([(host, port)], heartbeats=(0, 0))
        self._connection.set_listener("plain", self)
        self._changed = threading.Condition()
        self._receipts: set[str] = set()
        self._frames: list[Any] = []
        self._errors: list[str] = []

    def __enter__(self) -> _PlainStomp:
        self._connection.connect("guest", "guest", wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect(receipt="bye")
        self._wait(lambda: "bye" in self._receipts)

    def put(self, destination: str, body: str) -> None:
        receipt = secrets.token_hex(8)
        self._connection.send(destination, body, receipt=receipt, persistent="true")
        self._wait(lambda: receipt in self._receipts)

    def take_until(self, queue: str, mark: str) -> list[Found]:
        self._connection.subscribe(f"/queue/{queue}", id="all", ack="auto")
        self._wait(lambda: any(frame.body == mark for frame in self._frames))
        return [
            Found(frame.body, frame.headers.get(ID, ""), RESEND in frame.headers)
            for frame in self._frames
            if frame.body != mark
        ]

    def on_receipt(self, frame: Any) -> None:
        with self._changed:
            self._receipts.add(frame.headers["receipt-id"])
            self._changed.notify_all()

    def on_message(self, frame: Any) -> None:
        with self._changed:
            self._frames.append(frame)
            self._changed.notify_all()

    def on_error(self, frame: Any) -> None:
        with self._changed:
            self._errors.append(f"{frame.headers.get('message')}: {frame.body}")
            self._changed.notify_all()

    def _wait(self, predicate: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: predicate() or self._errors, PATIENCE), (
                "the broker does not answer a plain client"
            )
            assert not self._errors, self._errors


def _text(body: Any) -> str:
    return body.decode() if isinstance(body, bytes) else str(body)
