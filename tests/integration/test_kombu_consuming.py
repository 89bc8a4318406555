"""Consuming: a lost connection is seen by whoever consumes, and consuming goes on elsewhere."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import kombu
import pytest
from kombu.common import eventloop
from kombu.mixins import ConsumerMixin, ConsumerProducerMixin

from understudy.kombu import logical
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_ACK

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

    from understudy.testing import Background

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


def stale_acks() -> int:
    """Acks for deliveries of an earlier connection that were quietly refused in this test."""
    return sum(broker.stale_acks for broker in logical._process.brokers.values())


def fill(lab: Lab, place: Any, name: str, *texts: object) -> None:
    with lab.connect(place) as connection:
        queue = kombu.Queue(name)
        queue(connection.default_channel).declare()
        producer = kombu.Producer(connection)
        for text in texts:
            producer.publish(str(text), routing_key=name, serializer="raw")


class Worker(ConsumerMixin):
    """The pattern of kombu's documentation."""

    def __init__(self, connection: kombu.Connection, queue: str) -> None:
        self.connection = connection
        self.queue = kombu.Queue(queue)
        self.seen: list[str] = []
        self.times_consuming = 0
        self.on_body: Callable[[str], object] = lambda body: None
        self.ack_late = False

    def get_consumers(self, consumer: Any, channel: Any) -> Any:
        return [consumer(self.queue, on_message=self.handle, prefetch_count=10)]

    def on_consume_ready(self, *args: Any, **kwargs: Any) -> None:
        self.times_consuming += 1

    def handle(self, message: kombu.Message) -> None:
        self.seen.append(str(message.body))
        self.on_body(str(message.body))
        message.ack()


def run(lab: Lab, worker: Worker) -> Background:
    return lab.background(lambda: worker.run(_tokens=1))


@pytest.mark.chaos
def test_f20_consumer_mixin_when_its_broker_is_killed(
    lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    """F20: SIGKILL of the broker that a worker consumes from: it goes on at the other one."""
    first, second = rabbits
    fill(lab, second, unique, "two")
    fill(lab, first, unique, "one")
    worker = Worker(lab.connect(first, second), unique)
    running = run(lab, worker)
    assert wait_until(lambda: worker.seen == ["one"])
    first.kill()
    assert wait_until(lambda: worker.seen == ["one", "two"])
    worker.should_stop = True
    running.join()


@pytest.mark.parametrize("fault", ["reset", "fin", "black_hole"])
def test_f20_consumer_mixin_goes_on(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, fault: str
) -> None:
    """F20, F36: an idle consumer whose link breaks or falls silent."""
    fill(lab, rabbit_a, unique, "one")
    fill(lab, rabbit_b, unique, "two")
    proxy = lab.proxy(rabbit_a)
    worker = Worker(lab.connect(proxy, rabbit_b, heartbeat=1000), unique)
    running = run(lab, worker)
    assert wait_until(lambda: worker.seen == ["one"])
    getattr(proxy, fault)()
    assert wait_until(lambda: worker.seen == ["one", "two"])
    worker.should_stop = True
    running.join()


@pytest.mark.parametrize("fault", ["reset", "black_hole"])
def test_f18_consumer_that_is_busy_while_its_link_dies(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, fault: str
) -> None:
    """F18: the loss is noticed while a callback works; its ack is dropped, consuming goes on."""
    fill(lab, rabbit_a, unique, "one")
    fill(lab, rabbit_b, unique, "two")
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b, heartbeat=1000)
    worker = Worker(connection, unique)

    def work(body: str) -> None:
        if body == "one":
            getattr(proxy, fault)()
            broker = connection.transport.broker
            assert wait_until(lambda: broker.supervisor.epoch != 1 or not broker.supervisor.current)

    worker.on_body = work
    running = run(lab, worker)
    assert wait_until(lambda: worker.seen == ["one", "two"])
    assert stale_acks() == 1
    worker.should_stop = True
    running.join()


def test_loss_noticed_by_the_monitor_is_raised_by_the_next_drain_events(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """F20: a consuming connection never reconnects silently, without its consumers."""
    proxy = lab.proxy(rabbit_a)
    fill(lab, rabbit_a, unique)
    connection = lab.connect(proxy, rabbit_b, heartbeat=1000)
    with connection.Consumer(kombu.Queue(unique), on_message=lambda m: m.ack()):
        broker = connection.transport.broker
        proxy.black_hole()
        assert wait_until(lambda: broker.supervisor.current is None or broker.supervisor.epoch > 1)
        with pytest.raises(connection.recoverable_connection_errors):
            connection.drain_events(timeout=30)


def test_f29_f18_stale_ack_acknowledges_nothing_else(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F18: tag 1 of the old connection must not ack tag 1 of the new one."""
    proxy = lab.proxy(rabbit_a)
    fill(lab, rabbit_a, unique, "one", "two")
    connection = lab.connect(proxy)
    kept: list[kombu.Message] = []
    queue = kombu.Queue(unique)
    with connection.Consumer(queue, on_message=kept.append, prefetch_count=1):
        connection.drain_events(timeout=30)
        proxy.reset()
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=30)
    connection.ensure_connection()
    with connection.Consumer(queue, on_message=kept.append, prefetch_count=1):
        connection.drain_events(timeout=30)
        kept[0].ack()
        kept[0].channel.basic_reject(kept[0].delivery_tag, requeue=False)
        assert stale_acks() == 2
    connection.close()
    assert {m.body for m in take_all(rabbit_a, unique)} == {"one", "two"}


def test_f29_lost_ack_is_redelivered_not_lost(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F29: the link drops just before the ack: the message comes again, flagged."""
    proxy = lab.proxy(rabbit_a)
    fill(lab, rabbit_a, unique, "one")
    worker = Worker(lab.connect(proxy), unique)
    cut = proxy.cut_on(BASIC_ACK, direction="up", before=True)
    running = run(lab, worker)
    assert cut.wait()
    assert wait_until(lambda: worker.seen == ["one", "one"])
    worker.should_stop = True
    running.join()
    assert take_all(rabbit_a, unique) == []


def test_f17_f18_acks_and_closes_on_a_dead_connection_return_at_once(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F17, F18: 50 acks, a cancel and two closes with nobody there, reconnect=false."""
    proxy = lab.proxy(rabbit_a)
    fill(lab, rabbit_a, unique, *range(50))
    connection = lab.connect(proxy, reconnect="false")
    kept: list[kombu.Message] = []
    channel = connection.channel()
    consumer = kombu.Consumer(channel, kombu.Queue(unique), on_message=kept.append)
    consumer.consume()
    while len(kept) < 50:
        connection.drain_events(timeout=30)
    proxy.refuse()
    proxy.reset()
    with pytest.raises(connection.connection_errors):
        connection.drain_events(timeout=30)

    def leave() -> None:
        for message in kept:
            message.ack()
        consumer.cancel()
        channel.close()
        connection.close()

    lab.background(leave).join(30)
    assert stale_acks() == 50


def test_f24_simple_queue(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """F24: a blocked get() whose link dies raises kombu's error; the next one gets a message."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy)
    simple = connection.SimpleQueue(unique)
    simple.put("one")
    message = simple.get(timeout=30)
    assert message.payload == "one"
    message.ack()
    waiting = lab.background(lambda: simple.get(timeout=60))
    assert wait_until(lambda: proxy.connections >= 1)
    time.sleep(0.2)  # let it block in its read; a get() that has not begun yet is tested as well
    proxy.reset()
    assert waiting.is_over_within(30)
    assert isinstance(waiting.error, connection.connection_errors)
    connection.ensure_connection()
    simple = connection.SimpleQueue(unique)
    simple.put("two")
    assert simple.get(timeout=30).payload == "two"


def test_simple_queue_put_survives(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """F28: putting, before anything is consumed."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    simple = connection.SimpleQueue(unique)
    simple.put(1)
    proxy.reset()
    simple.put(2)
    assert connection.SimpleQueue(unique).get(timeout=30).payload == 2


def test_eventloop_tells_the_loss(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """F20: kombu.common.eventloop raises, and works again after a reconnect."""
    proxy = lab.proxy(rabbit_a)
    fill(lab, rabbit_a, unique, "one")
    connection = lab.connect(proxy)
    seen: list[str] = []

    def handle(message: kombu.Message) -> None:
        seen.append(str(message.body))
        message.ack()
        message.channel.queue_declare(unique, passive=True)  # answered after the ack was taken

    def consume(wanted: int) -> None:
        with connection.Consumer(kombu.Queue(unique), on_message=handle):
            for _ in eventloop(connection, timeout=1, ignore_timeouts=True):
                if len(seen) >= wanted:
                    return
                if seen == ["one"]:
                    proxy.reset()

    with pytest.raises(connection.connection_errors):
        consume(2)
    fill(lab, rabbit_a, unique, "two")
    connection.ensure_connection()
    consume(2)
    assert seen == ["one", "two"]


def test_f20_request_and_reply_with_consumer_producer_mixin(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F20: one process consumes and replies while its links are reset: no reply is missing."""
    proxy = lab.proxy(rabbit_a)
    fill(lab, rabbit_a, unique, *range(60))
    fill(lab, rabbit_a, f"{unique}-replies")

    class Replier(Worker, ConsumerProducerMixin):
        pass

    worker = Replier(lab.connect(proxy, initialReconnectDelay=1), unique)

    def reply(body: str) -> None:
        worker.producer.publish(body, routing_key=f"{unique}-replies", serializer="raw")
        if len(worker.seen) % 20 == 10:
            proxy.reset()

    worker.on_body = reply
    running = run(lab, worker)
    assert wait_until(lambda: {*worker.seen} == {*map(str, range(60))}, 60)
    worker.should_stop = True
    running.join()
    replies = {m.body for m in take_all(rabbit_a, f"{unique}-replies")}
    assert replies == {*map(str, range(60))}


def client_ports(connection: kombu.Connection) -> set[int]:
    broker = connection.transport.broker
    return {
        inner.raw._raw_socket().getsockname()[1] for inner in broker.supervisor._connections._epochs
    }


def is_same_link(broker: RabbitMQ, ports: set[int]) -> bool:
    """Whether the broker still has the very connections it had: it names the client's ports."""
    seen = broker.ctl("list_connections", "peer_port").split()
    return {*map(str, ports)} <= {*seen}


def test_heartbeats_keep_idle_and_busy_connections(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """heartbeat=1000: an idle producer, an idle consumer and one busy for 5 s stay connected."""
    fill(lab, rabbit_a, unique, "work")
    idle = lab.connect(rabbit_a, heartbeat=1000)
    kombu.Producer(idle).publish("one", routing_key=f"{unique}-nobody", serializer="raw")
    worker = Worker(lab.connect(rabbit_a, heartbeat=1000, backup="true"), unique)
    busy = threading.Event()

    def work(body: str) -> None:
        if body == "work":
            time.sleep(5)  # not reading, longer than two heartbeats: what the test is about
            busy.set()

    worker.on_body = work
    running = run(lab, worker)
    ports = client_ports(idle)
    assert wait_until(lambda: bool(worker.seen))
    ports |= client_ports(worker.connection)
    assert len(ports) == 2
    assert busy.wait(60)
    assert is_same_link(rabbit_a, ports)
    worker.should_stop = True
    running.join()
    kombu.Producer(idle).publish("two", routing_key=f"{unique}-nobody", serializer="raw")
    assert client_ports(idle) <= ports


def test_acks_keep_working_beside_publishing(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """Consuming and publishing in one thread use two links; neither confuses the other's tags."""
    fill(lab, rabbit_a, unique, *range(30))
    connection = lab.connect(rabbit_a)
    producer = kombu.Producer(connection)
    seen: list[str] = []

    def handle(message: kombu.Message) -> None:
        producer.publish("copy", routing_key=f"{unique}-nobody", serializer="raw")
        seen.append(str(message.body))
        message.ack()

    with connection.Consumer(kombu.Queue(unique), on_message=handle, prefetch_count=3):
        while len(seen) < 30:
            connection.drain_events(timeout=30)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.2)
    connection.close()
    assert seen == [*map(str, range(30))]
    assert take_all(rabbit_a, unique) == []
