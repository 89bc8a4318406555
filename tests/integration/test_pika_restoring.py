"""Restoring with the pika adapter: what was there is there again, whoever still holds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pika import exceptions

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.pika_lab import Collector, fill, lose, process_until

if TYPE_CHECKING:
    import amqp
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration

Connect = Callable[..., Any]
Plain = Callable[[RabbitMQ], "amqp.Channel"]


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
    connection = connect(proxy, rabbit_a, heartbeat=1000, on_event=events.add)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    mine = channel.queue_declare("", exclusive=True).method.queue
    collector = Collector()
    channel.basic_consume(unique, collector, exclusive=True)
    channel.basic_consume(mine, collector)
    proxy.black_hole()  # the broker hears nothing from us any more, and keeps the connection
    connection._session.wire.sever("the test says so")
    process_until(connection, lambda: connection._session.is_live)
    channel.basic_publish("", unique, "one")
    channel.basic_publish("", mine, "two")
    process_until(connection, lambda: len(collector.bodies) == 2)
    assert events.count("Interrupted") == events.count("Resumed") == 1


def test_timers_run_while_an_exclusive_queue_is_still_held(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ
) -> None:
    """A program that feeds a watchdog by call_later lives on; callbacks of threads run as well."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, rabbit_a, heartbeat=1000)
    channel = connection.channel()
    mine = channel.queue_declare("", exclusive=True).method.queue
    beats: list[bool] = []
    calls: list[bool] = []

    def beat() -> None:
        beats.append(connection._session.is_live)
        connection.call_later(0.1, beat)
        connection.add_callback_threadsafe(lambda: calls.append(connection._session.is_live))

    connection.call_later(0.1, beat)
    proxy.black_hole()  # the broker hears nothing from us any more, and keeps the connection
    connection._session.wire.sever("the test says so")
    until = time.monotonic() + 30
    while not connection._session.is_live:
        assert time.monotonic() < until, "it did not come back"
        connection.process_data_events(time_limit=None)
    assert beats.count(False) > 5
    assert calls.count(False) > 3
    channel.basic_publish("", mine, "it is there again")
    assert channel.basic_get(mine, auto_ack=True)[2] == b"it is there again"


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


def channels_of(broker: RabbitMQ, user: str) -> int:
    """As its limit sees them, some time after they were opened or closed."""
    return int(
        broker.ctl(
            "eval", f'rabbit_channel_tracking:count_tracked_items_in({{user, <<"{user}">>}}).'
        )
    )


def test_as_many_channels_as_the_broker_allows_come_back(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """The one on which the queues are declared is gone before the last of them is opened."""
    limits = '{"max-channels": 2}'
    rabbit_a.ctl("add_user", unique, unique)
    rabbit_a.ctl("set_permissions", unique, ".*", ".*", ".*")
    rabbit_a.ctl("set_user_limits", unique, limits)
    try:
        proxy = lab.proxy(rabbit_a)
        where = f"amqp://{unique}:{unique}@{proxy.host}:{proxy.port}"
        connection = connect(where)
        channels = [connection.channel(), connection.channel()]
        channels[0].queue_declare(unique)
        for _ in range(3):
            proxy.refuse()
            lose(proxy, connection)
            assert wait_until(lambda: not channels_of(rabbit_a, unique))
            proxy.heal()
            for channel in channels:
                channel.basic_publish("", unique, "again")
        with pytest.raises(exceptions.ConnectionClosedByBroker, match="limit"):
            connection.channel()
        for channel in channels:
            channel.basic_publish("", unique, "and again")
    finally:
        rabbit_a.ctl("delete_user", unique)
