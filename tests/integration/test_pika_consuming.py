"""Consuming with the pika adapter: what was there is there again, and tags stay true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from understudy.pika import SendTimeout
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_ACK
from understudy.testing.pika_lab import Collector, fill, lose, process_until, ready

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration

Connect = Callable[..., Any]


def test_f25_stale_acks_never_touch_another_message(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F25, F18: the ack of an earlier connection's delivery is dropped and counted."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    fill(channel, unique, 5)
    collector = Collector(acks=False)
    channel.basic_consume(unique, collector)
    process_until(connection, lambda: len(collector.bodies) == 5)
    lose(proxy, connection)
    channel.basic_ack(1)  # without a broker
    process_until(connection, lambda: len(collector.bodies) == 10)
    channel.basic_ack(5, multiple=True)
    channel.basic_nack(2, requeue=False)
    channel.basic_reject(3, requeue=False)
    assert connection.stale_acks == 4
    assert collector.tags == list(range(1, 11))
    assert collector.bodies[:5] == collector.bodies[5:]
    channel.basic_ack(8, multiple=True)  # 6, 7, 8
    channel.basic_ack(0, multiple=True)  # the rest
    channel.close()
    assert wait_until(lambda: ready(connection, unique) == 0)
    assert connection.stale_acks == 4


def test_ack_of_all_so_far_spares_what_was_not_looked_at(
    connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """Tag 0 with multiple means what the application was given, not what lies in our buffer."""
    connection = connect(rabbit_a)
    channel = connection.channel()
    channel.queue_declare(unique)
    fill(channel, unique, 10)
    generator = channel.consume(unique)
    next(generator)
    next(generator)
    assert wait_until(lambda: bool(_served(connection)) or channel.get_waiting_message_count() == 8)
    channel.basic_ack(0, multiple=True)
    channel.cancel()
    channel.close()
    assert wait_until(lambda: ready(connection, unique) == 8)


def _served(connection: Any) -> bool:
    connection.process_data_events()
    return False


def test_generator_goes_on(lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str) -> None:
    """A consume() generator continues over a failover, timeouts included."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    got = []
    fill(channel, unique, 3)
    for method, _, body in channel.consume(unique, inactivity_timeout=30):
        assert method is not None
        channel.basic_ack(method.delivery_tag)
        got.append(body)
        if len(got) == 3:
            lose(proxy, connection)
            fill(channel, unique, 3, begin=3)
        if b"5" in got:
            break
    assert [int(b) for b in dict.fromkeys(got)] == list(range(6))
    given = next(channel.consume(unique, inactivity_timeout=0.05))
    while given[0] is not None:  # an ack may have been lost
        channel.basic_ack(given[0].delivery_tag)
        given = next(channel.consume(unique, inactivity_timeout=0.05))
    assert given == (None, None, None)
    assert channel.cancel() == 0


def test_long_callback_does_not_stop_heartbeats(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, events: Events, unique: str
) -> None:
    """A callback of several heartbeats: the connection lives, no message comes twice."""
    connection = connect(rabbit_a, heartbeat=1000, on_event=events.add)
    channel = connection.channel()
    channel.queue_declare(unique)
    fill(channel, unique, 2)
    collector = Collector()

    def slow(*given: Any) -> None:
        time.sleep(3.5)  # above three heartbeats: what the test is about
        collector(*given)
        channel.stop_consuming()

    channel.basic_consume(unique, slow)
    channel.start_consuming()
    assert collector.bodies == [b"0"]
    assert events.names == ["Connected"]
    assert wait_until(lambda: ready(connection, unique) == 1)


def test_cancelled_by_the_broker(connect: Connect, rabbit_a: RabbitMQ, unique: str) -> None:
    """A deleted queue cancels its consumer: on_cancel is called, start_consuming returns."""
    connection = connect(rabbit_a)
    channel = connection.channel()
    channel.queue_declare(unique)
    told: list[Any] = []
    channel.add_on_cancel_callback(told.append)
    tag = channel.basic_consume(unique, Collector())
    connection.call_later(0.05, lambda: connection.channel().queue_delete(unique))
    channel.start_consuming()
    assert [frame.method.consumer_tag for frame in told] == [tag]
    assert channel.consumer_tags == []


def test_basic_get_and_offline_calls(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F18: cancel, ack and channel.close return at once without a broker."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel, other = connection.channel(), connection.channel()
    channel.queue_declare(unique, durable=True)
    assert channel.basic_get(unique) == (None, None, None)
    fill(channel, unique, 2)
    method, _, body = channel.basic_get(unique)
    assert (method.delivery_tag, body) == (1, b"0")
    tag = channel.basic_consume(unique, Collector())
    proxy.refuse()
    lose(proxy, connection)
    channel.basic_ack(1)
    channel.basic_cancel(tag)
    other.close()
    assert connection.stale_acks == 1
    proxy.heal()
    # the broker puts back what the dead connection had
    assert wait_until(lambda: channel.basic_get(unique, auto_ack=True)[2] in (b"0", b"1"))
    assert channel.consumer_tags == []
    assert other.is_closed


def test_f20_ten_workers_nine_drops(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F20: workers whose sockets are dropped again and again see no error and lose nothing."""
    drops, count = 9, 10
    feeder = connect(rabbit_a).channel()
    feeder.queue_declare(unique, durable=True)
    proxies = [lab.proxy(rabbit_a) for _ in range(count)]
    told: list[list[str]] = [[] for _ in range(count)]
    done: set[int] = set()
    is_over = threading.Event()

    def work(index: int) -> None:
        names = told[index]
        connection = connect(
            proxies[index],
            initialReconnectDelay=0,
            on_event=lambda event: names.append(type(event).__name__),
        )
        channel = connection.channel()
        channel.queue_declare(unique, durable=True)
        channel.basic_qos(prefetch_count=2)

        def handle(chan: Any, method: Any, properties: Any, body: bytes) -> None:
            done.add(int(body))
            chan.basic_publish("", unique + "-replies", body)
            chan.basic_ack(method.delivery_tag)

        channel.queue_declare(unique + "-replies", durable=True)
        channel.basic_consume(unique, handle)
        while not is_over.is_set():
            connection.process_data_events(time_limit=0.1)

    workers = [lab.background(partial(work, index)) for index in range(count)]
    for drop in range(drops):
        fill(feeder, unique, 20, begin=20 * drop)
        for index, proxy in enumerate(proxies):
            proxy.cut_on(BASIC_ACK, direction="up")
            assert workers[index].is_running
        assert wait_until(lambda drop=drop: len(done) == 20 * (drop + 1))  # type: ignore[misc]
        for proxy in proxies:
            proxy.reset()
        assert wait_until(lambda drop=drop: all(n.count("Resumed") > drop for n in told))  # type: ignore[misc]
    for proxy in proxies:
        proxy.heal()  # an ack may still be cut off, and its worker not be back yet
    assert wait_until(lambda: all(n.count("Interrupted") == n.count("Resumed") for n in told))
    is_over.set()
    for worker in workers:
        worker.join()
    for names in told:
        assert names.count("Interrupted") == names.count("Resumed") >= drops
    assert done == set(range(20 * drops))
    feeder.queue_delete(unique + "-replies")


def test_a_callback_that_raises_keeps_nothing_from_other_channels(
    connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """What had come for them is handed out by the next call."""
    connection = connect(rabbit_a)
    taken: list[int] = []

    def callback(channel: Any, *_: Any) -> None:
        taken.append(channel.channel_number)
        if len(taken) == 1:
            raise RuntimeError("the application's own")

    channels = [connection.channel() for _ in range(3)]
    for number, channel in enumerate(channels):
        channel.queue_declare(f"{unique}-{number}", auto_delete=True)
        channel.basic_consume(f"{unique}-{number}", callback, auto_ack=True)
    for number in range(3):
        channels[0].basic_publish("", f"{unique}-{number}", "")
    wire = connection._session.wire
    pending = connection._channels_pending_dispatch
    assert wait_until(lambda: wire.serve() or len(pending) == 3)
    with pytest.raises(RuntimeError):
        connection.process_data_events(time_limit=5)
    process_until(connection, lambda: len(taken) == 3)
    assert sorted(taken) == [1, 2, 3]


def test_an_ack_ends_in_time_while_the_broker_reads_nothing(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """It waits in our buffer then; ``timeout`` bounds the call."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, timeout="1500", connectTimeout="5000")
    channel = connection.channel()
    channel.queue_declare(unique, auto_delete=True)
    fill(channel, unique, 1)
    method, _, _ = channel.basic_get(unique)
    proxy.black_hole()
    with pytest.raises(SendTimeout):
        channel.basic_publish("", unique, b" " * 2**25)  # far more than the kernel takes
    lab.background(lambda: channel.basic_ack(method.delivery_tag)).join()
