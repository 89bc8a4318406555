"""Consuming with the pika adapter: what was there is there again, and tags stay true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy.pika import SendTimeout
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_ACK

if TYPE_CHECKING:
    import amqp
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Connect = Callable[..., Any]
Plain = Callable[[RabbitMQ], "amqp.Channel"]


def ready(connection: Any, queue: str) -> int:
    """Messages ready; RabbitMQ counts before it has put back what was rejected."""
    with connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


class Collector:
    """A consumer that keeps what it gets."""

    def __init__(self, acks: bool = True) -> None:
        self.tags: list[int] = []
        self.bodies: list[bytes] = []
        self.acks = acks

    def __call__(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.tags.append(method.delivery_tag)
        self.bodies.append(body)
        if self.acks:
            channel.basic_ack(method.delivery_tag)


def fill(channel: Any, queue: str, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        channel.basic_publish("", queue, str(number))


def process_until(connection: Any, is_over: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not is_over():
        assert time.monotonic() < until, "it did not come"
        connection.process_data_events(time_limit=0.2)


def lose(proxy: Any, connection: Any) -> None:
    """Cut the connection, and have it restored."""
    proxy.reset()
    connection._session.wire.sever("the test says so")


@pytest.mark.chaos
def test_f19_consumers_come_back_on_another_broker(
    lab: Lab, connect: Connect, rabbits: tuple[RabbitMQ, RabbitMQ], plain: Plain, unique: str
) -> None:
    """F19, F23: after a kill each subscription exists once, with its prefetch and its queue."""
    first, second = rabbits
    connection = connect(first, second)
    channel = connection.channel()
    channel.exchange_declare(unique, "topic")
    channel.queue_declare(unique, arguments={"x-max-length": 50})
    channel.queue_bind(unique, unique, "orders.#")
    channel.basic_qos(prefetch_count=3)
    collector = Collector(acks=False)
    channel.basic_consume(unique, collector, consumer_tag="mine")
    first.kill()
    process_until(connection, lambda: connection._session.is_live)
    for _ in range(5):
        channel.basic_publish(unique, "orders.new", "again")
    process_until(connection, lambda: len(collector.bodies) >= 3)
    connection.process_data_events(time_limit=0.3)
    assert len(collector.bodies) == 3
    assert channel.consumer_tags == ["mine"]
    declared = plain(second).queue_declare(unique, passive=True)
    assert declared.consumer_count == 1


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


def test_f23_buffered_deliveries_of_a_lost_link(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F23: what must be acked is dropped and comes again; what came with auto_ack is kept."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    manual, automatic = connection.channel(), connection.channel()
    for channel, name in ((manual, unique), (automatic, unique + "-auto")):
        channel.queue_declare(name, durable=True)
        fill(channel, name, 4)
    acked, kept = Collector(), Collector(acks=False)
    manual.basic_consume(unique, acked)
    automatic.basic_consume(unique + "-auto", kept, auto_ack=True)
    manual.queue_declare(unique, passive=True)
    assert wait_until(lambda: _all_there(connection, manual, automatic))
    lose(proxy, connection)
    process_until(connection, lambda: len(acked.bodies) >= 4 and len(kept.bodies) >= 4)
    assert acked.bodies == kept.bodies == [b"0", b"1", b"2", b"3"]
    assert connection.stale_acks == 0


def _all_there(connection: Any, *channels: Any) -> bool:
    channels[0].basic_qos()  # reads what has come, and dispatches nothing
    return all(len(channel._pending_events) == 4 for channel in channels)


def test_generator_goes_on(lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str) -> None:
    """A consume() generator continues over a failover, timeouts included."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    got = []
    fill(channel, unique, 3)
    for method, _, body in channel.consume(unique, inactivity_timeout=5):
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


def test_server_named_queues_keep_their_name(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """A queue declared without a name has one of ours, the same on the next broker."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, rabbit_b)
    channel = connection.channel()
    channel.exchange_declare(unique, "fanout")
    name = channel.queue_declare("", exclusive=True).method.queue
    assert name.startswith("understudy.gen-")
    channel.queue_bind("", unique)
    collector = Collector()
    channel.basic_consume("", collector)
    proxy.refuse()
    proxy.reset()
    process_until(connection, lambda: connection._session.is_live)
    channel.basic_publish(unique, "", "news")
    process_until(connection, lambda: bool(collector.bodies))
    assert channel.queue_declare(name, passive=True).method.consumer_count == 1


def test_exclusive_queue_and_consumer_held_by_our_own_dead_connection(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, events: Events, unique: str
) -> None:
    """405 and 403 are asked for again until the broker has noticed the death of the old one."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, heartbeat=1000, on_event=events.add)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    mine = channel.queue_declare("", exclusive=True).method.queue
    collector = Collector()
    channel.basic_consume(unique, collector, exclusive=True)
    channel.basic_consume(mine, collector)
    proxy.half_open("up")  # the broker hears nothing from us any more, and keeps the connection
    connection._session.wire.sever("the test says so")
    proxy.heal()
    process_until(connection, lambda: connection._session.is_live)
    channel.basic_publish("", unique, "one")
    channel.basic_publish("", mine, "two")
    process_until(connection, lambda: len(collector.bodies) == 2)
    assert events.count("Interrupted") == events.count("Resumed") == 1


def test_what_no_endpoint_restores_is_the_brokers_own_error(
    lab: Lab,
    connect: Connect,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    plain: Plain,
    unique: str,
) -> None:
    """Another queue of that name on the other broker: its 406 reaches the application."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, rabbit_b, initialReconnectDelay=0)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    plain(rabbit_b).queue_declare(unique, durable=False, auto_delete=False)
    proxy.refuse()
    proxy.reset()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        channel.basic_publish("", unique, "x")
    assert caught.value.reply_code == 406
    proxy.heal()
    channel.basic_publish("", unique, "x")
    plain(rabbit_b).queue_delete(unique)


def test_deleted_and_passive_things_are_not_made_again(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, plain: Plain, unique: str
) -> None:
    """Restored is what was created and still exists."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, rabbit_b)
    channel = connection.channel()
    names = {kind: f"{unique}-{kind}" for kind in ("kept", "deleted", "passive", "auto")}
    other = plain(rabbit_a)
    other.queue_declare(names["passive"], auto_delete=False)
    channel.queue_declare(names["kept"])
    channel.queue_declare(names["deleted"])
    channel.queue_declare(names["passive"], passive=True)
    channel.queue_declare(names["auto"], auto_delete=True)
    tag = channel.basic_consume(names["auto"], Collector())
    channel.basic_cancel(tag)
    channel.queue_delete(names["deleted"])
    proxy.refuse()
    proxy.reset()
    channel.basic_publish("", names["kept"], "x")
    for kind, name in names.items():
        there = connection.channel()
        if kind == "kept":
            assert there.queue_declare(name, passive=True).method.message_count == 1
            continue
        with pytest.raises(pika.exceptions.ChannelClosedByBroker):
            there.queue_declare(name, passive=True)
    other.queue_delete(names["passive"])


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
    assert channel.basic_get(unique, auto_ack=True)[2] in (b"0", b"1")
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
    connection = connect(proxy, timeout="300", connectTimeout="3000")
    channel = connection.channel()
    channel.queue_declare(unique, auto_delete=True)
    fill(channel, unique, 1)
    method, _, _ = channel.basic_get(unique)
    proxy.black_hole()
    with pytest.raises(SendTimeout):
        channel.basic_publish("", unique, b" " * 2**25)  # far more than the kernel takes
    lab.background(lambda: channel.basic_ack(method.delivery_tag)).join(10)


def test_f25_an_ack_counts_while_other_channels_are_still_restored(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """With prefetch 1 one that was dropped would be the last that this consumer gets."""
    network = lab.proxy(rabbit_a)
    connection = connect(network)
    channels = [connection.channel() for _ in range(60)]
    consuming, publishing = channels[:2]
    consuming.queue_declare(unique)
    consuming.basic_qos(prefetch_count=1)
    for channel in channels[1:]:
        channel.basic_qos(prefetch_count=5)
    for number in range(10):
        consuming.basic_publish("", unique, str(number))
    came: list[bytes] = []
    has_come, is_cut = threading.Event(), threading.Event()

    def work(channel: Any, method: Any, _: Any, body: bytes) -> None:
        if not came:
            has_come.set()
            assert is_cut.wait(30)
            wait_until(lambda: bool(consuming._pending_events))  # it has come again
            network.heal()
        came.append(body)
        channel.basic_ack(method.delivery_tag)
        if body == b"9":
            channel.stop_consuming()

    consuming.basic_consume(unique, work)
    consumer = lab.background(consuming.start_consuming)
    assert has_come.wait(30)
    network.throttle(4000)  # bytes/s: the other channels are restored one by one
    network.reset()
    restorer = lab.background(lambda: publishing.basic_publish("", unique + "-none", b""))
    is_cut.set()
    restorer.join()
    consumer.join()
    assert set(came) == {str(number).encode() for number in range(10)}
