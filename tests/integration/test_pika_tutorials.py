"""The programs of pika's own tutorials, with another import, each across a kill of its connection.

Both members of the list are ways to one broker, as with a cluster behind two addresses.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy.pika import BlockingConnection
from understudy.testing import FaultProxy, wait_until
from understudy.testing.brokers import RabbitMQ

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


class Estate:
    """Two ways to one broker; `cut` breaks all connections on the way in use."""

    def __init__(self, lab: Lab, broker: RabbitMQ) -> None:
        self._ways = [lab.proxy(broker), lab.proxy(broker)]
        self._connections: list[BlockingConnection] = []
        self._uri = lab.uri(*self._ways, initialReconnectDelay=0)

    def connection(self) -> BlockingConnection:
        connection = BlockingConnection(self._uri)
        self._connections.append(connection)
        return connection

    def cut(self) -> None:
        for way in self._ways:
            way.reset()

    @property
    def ways(self) -> list[FaultProxy]:
        return self._ways

    def close(self) -> None:
        for connection in self._connections:
            if connection.is_open:
                connection.close()


@pytest.fixture
def estate(lab: Lab, rabbit_a: RabbitMQ) -> Iterator[Estate]:
    estate = Estate(lab, rabbit_a)
    yield estate
    estate.close()


@pytest.fixture
def start(lab: Lab) -> Callable[[Callable[[], object]], Any]:
    """Run a receiving program in a thread of its own."""
    return lab.background


def until(condition: Callable[[], bool]) -> None:
    assert wait_until(condition, 60)


def stop(channel: Any, program: Any) -> None:
    channel.connection.add_callback_threadsafe(channel.stop_consuming)
    program.join()


def test_work_queue(estate: Estate, start: Any, unique: str) -> None:
    """Tutorial two: durable queue, persistent messages, fair dispatch, manual acks."""
    done: list[bytes] = []
    channels = []

    def worker() -> None:
        connection = estate.connection()
        channel = connection.channel()
        channel.queue_declare(queue=unique, durable=True)

        def callback(ch: Any, method: Any, properties: Any, body: bytes) -> None:
            done.append(body)
            ch.basic_ack(delivery_tag=method.delivery_tag)

        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue=unique, on_message_callback=callback)
        channels.append(channel)
        channel.start_consuming()

    programs = [start(worker), start(worker)]
    connection = estate.connection()
    channel = connection.channel()
    channel.queue_declare(queue=unique, durable=True)
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    for number in range(60):
        if number % 20 == 10:
            estate.cut()
        channel.basic_publish(
            exchange="", routing_key=unique, body=f"task {number}", properties=persistent
        )
    until(lambda: len(set(done)) == 60)
    for one in channels:
        one.connection.add_callback_threadsafe(one.stop_consuming)
    for program in programs:
        program.join()


@pytest.mark.parametrize(
    ("kind", "keys", "sent"),
    [
        ("fanout", [""], {"": True}),
        ("direct", ["error", "warning"], {"error": True, "info": False, "warning": True}),
        (
            "topic",
            ["kern.*", "*.critical"],
            {"kern.info": True, "cron.critical": True, "a.b": False},
        ),
    ],
)
def test_publish_subscribe_routing_topics(
    estate: Estate, start: Any, unique: str, kind: str, keys: list[str], sent: dict[str, bool]
) -> None:
    """Tutorials three to five: exclusive server-named queues bound to an exchange, auto_ack."""
    got: list[tuple[str, bytes]] = []
    ready = threading.Event()
    channels = []

    def receive_logs() -> None:
        connection = estate.connection()
        channel = connection.channel()
        channel.exchange_declare(exchange=unique, exchange_type=kind)
        result = channel.queue_declare(queue="", exclusive=True)
        queue_name = result.method.queue
        for key in keys:
            channel.queue_bind(exchange=unique, queue=queue_name, routing_key=key)

        def callback(ch: Any, method: Any, properties: Any, body: bytes) -> None:
            got.append((method.routing_key, body))

        channel.basic_consume(queue=queue_name, on_message_callback=callback, auto_ack=True)
        channels.append(channel)
        ready.set()
        channel.start_consuming()

    program = start(receive_logs)
    assert ready.wait(60)
    channel = estate.connection().channel()
    channel.exchange_declare(exchange=unique, exchange_type=kind)
    # what is published while the subscriber is away is lost by nature, so ask again
    for round_ in (b"before", b"after"):
        wanted = {(key, round_) for key, comes in sent.items() if comes}

        def emit(round_: bytes = round_, wanted: set[tuple[str, bytes]] = wanted) -> bool:
            for key in sent:
                channel.basic_publish(exchange=unique, routing_key=key, body=round_)
            return wanted <= set(got)

        until(emit)
        estate.cut()
    assert {key for key, _ in got} == {key for key, comes in sent.items() if comes}
    stop(channels[0], program)


class FibonacciRpcClient:
    """Tutorial six, as it stands there; ``timeout`` because a request in flight is lost."""

    def __init__(self, estate: Estate, queue: str, reply_queue: str) -> None:
        self.queue = queue
        self.connection = estate.connection()
        self.channel = self.connection.channel()
        self.callback_queue = reply_queue
        if not reply_queue:
            result = self.channel.queue_declare(queue="", exclusive=True)
            self.callback_queue = result.method.queue
        self.channel.basic_consume(
            queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True
        )
        self.response: bytes | None = None
        self.corr_id = ""

    def on_response(self, ch: Any, method: Any, props: Any, body: bytes) -> None:
        if self.corr_id == props.correlation_id:
            self.response = body

    def call(self, n: int) -> int | None:
        self.response = None
        self.corr_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key=self.queue,
            properties=pika.BasicProperties(
                reply_to=self.callback_queue, correlation_id=self.corr_id
            ),
            body=str(n),
        )
        for _ in range(20):
            self.connection.process_data_events(time_limit=0.1)
            if self.response is not None:
                return int(self.response)
        return None


@pytest.mark.parametrize("reply_queue", ["", "amq.rabbitmq.reply-to"])
def test_rpc(estate: Estate, start: Any, unique: str, reply_queue: str) -> None:
    """Tutorial six, and the same with direct reply-to: answers come again after a cut."""
    channels = []

    def rpc_server() -> None:
        channel = estate.connection().channel()
        channel.queue_declare(queue=unique)

        def on_request(ch: Any, method: Any, props: Any, body: bytes) -> None:
            ch.basic_publish(
                exchange="",
                routing_key=props.reply_to,
                properties=pika.BasicProperties(correlation_id=props.correlation_id),
                body=str(int(body) * 2),
            )
            ch.basic_ack(delivery_tag=method.delivery_tag)

        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue=unique, on_message_callback=on_request)
        channels.append(channel)
        channel.start_consuming()

    program = start(rpc_server)
    client = FibonacciRpcClient(estate, unique, reply_queue)
    for n in range(3):
        until(lambda n=n: client.call(n) == 2 * n)  # type: ignore[misc]
        estate.cut()
    stop(channels[0], program)


def test_publisher_confirms(estate: Estate, unique: str) -> None:
    """The tutorial on confirms: mandatory and confirm_delivery, one by one."""
    channel = estate.connection().channel()
    channel.queue_declare(queue=unique, durable=True)
    channel.confirm_delivery()
    for number in range(30):
        if number == 15:
            estate.cut()
        channel.basic_publish(
            exchange="",
            routing_key=unique,
            body=str(number),
            properties=pika.BasicProperties(content_type="text/plain"),
            mandatory=True,
        )
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(exchange="", routing_key="nowhere", body=b"", mandatory=True)
    bodies = []
    for method, _, body in channel.consume(unique, inactivity_timeout=60):
        if method is None:
            break
        bodies.append(int(body))
        channel.basic_ack(method.delivery_tag)
        if bodies[-1] == 29:
            break
    channel.cancel()
    assert [*dict.fromkeys(bodies)] == list(range(30))
