"""Sends that are confirmed one by one: whatever breaks, a send that returned is in a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from understudy.kombu.link import AmqpLink
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import (
    BASIC_ACK,
    BASIC_PUBLISH,
)

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


def send(
    producer: kombu.Producer, queue: str, *texts: object, retry: bool = False, **options: Any
) -> None:
    for text in texts:
        producer.publish(str(text), routing_key=queue, serializer="raw", retry=retry, **options)


def declared(connection: kombu.Connection, name: str, **options: Any) -> kombu.Queue:
    queue = kombu.Queue(name, **options)
    queue(connection.default_channel).declare()
    return queue


@pytest.mark.chaos
@pytest.mark.parametrize("retry", [False, True])
def test_f28_broker_killed_while_sending(
    lab: Lab,
    rabbits: tuple[RabbitMQ, RabbitMQ],
    take_all: Take,
    events: Events,
    unique: str,
    retry: bool,
) -> None:
    """F28, F14: SIGKILL in the middle of a stream, then when idle: nothing reported is lost."""
    first, second = rabbits
    connection = lab.connect(first, second, on_event=events.add)
    declared(connection, unique)
    first.settle()  # else so young a queue may go with its node
    producer = kombu.Producer(connection)
    half = threading.Event()

    def stream() -> None:
        for number in range(400):
            if number == 100:
                half.set()
            send(producer, unique, number, retry=retry)

    sending = lab.background(stream)
    assert half.wait(60)
    first.kill()
    sending.join()
    assert events.count("Interrupted") == events.count("Resumed") == 1
    first.start()
    on_first = take_all(first, unique)
    on_second = take_all(second, unique)
    assert {*map(int, bodies(on_first + on_second))} == set(range(400))
    assert bodies(on_second) == [str(n) for n in range(int(bodies(on_second)[0]), 400)]
    doubled = len(on_first) + len(on_second) - 400
    assert doubled == 0 or (doubled == 1 and on_second[0].is_resend)


def test_f28_cut_between_publish_and_confirm(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F28: the broker has the message and its confirm is lost: the send returns; the same id."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    declared(connection, unique)
    producer = kombu.Producer(connection)
    send(producer, unique, "before")
    cut = proxy.cut_on(BASIC_ACK, direction="down", before=True)
    send(producer, unique, "doubted")
    assert cut.fired == 1
    send(producer, unique, "after")
    first, copy = take_all(rabbit_a, unique), take_all(rabbit_b, unique)
    assert bodies(first) == ["before", "doubted"]
    assert bodies(copy) == ["doubted", "after"]
    assert first[1].id == copy[0].id
    assert [m.is_resend for m in first + copy] == [False, False, True, False]


def test_f28_application_message_id_is_kept(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F28: an id that the application gave goes on both copies, and no other is added."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    declared(connection, unique)
    producer = kombu.Producer(connection)
    proxy.cut_on(BASIC_ACK, direction="down", before=True)
    send(producer, unique, "doubted", message_id="order-17")
    (one,), (two,) = take_all(rabbit_a, unique), take_all(rabbit_b, unique)
    assert one.properties["message_id"] == two.properties["message_id"] == "order-17"
    assert "x-understudy-id" not in {**one.headers, **two.headers}
    assert two.is_resend


def test_cut_right_after_the_confirm(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F28's counterpart: what was confirmed is not sent again, however soon the link dies."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    declared(connection, unique)
    producer = kombu.Producer(connection)
    send(producer, unique, "one")
    cut = proxy.cut_on(BASIC_ACK, direction="down", before=False)
    send(producer, unique, "two")
    assert cut.wait()
    send(producer, unique, "three")
    assert bodies(take_all(rabbit_a, unique)) == ["one", "two"]
    assert bodies(take_all(rabbit_b, unique)) == ["three"]


def test_cut_before_the_publish_arrives(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F28: the publish itself is lost on the way."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    declared(connection, unique)
    producer = kombu.Producer(connection)
    cut = proxy.cut_on(BASIC_PUBLISH, direction="up", before=True, how="fin")
    send(producer, unique, "one", "two")
    assert cut.fired == 1
    assert take_all(rabbit_a, unique) == []
    found = take_all(rabbit_b, unique)
    assert bodies(found) == ["one", "two"]
    assert found[0].is_resend


def test_producer_bound_to_a_channel_survives(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F28: a producer made from a channel, not from the connection, with and without retry."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    declared(connection, unique)
    producer = kombu.Producer(connection.channel())
    send(producer, unique, 1)
    proxy.reset()
    send(producer, unique, 2)
    send(producer, unique, 3, retry=True)
    assert bodies(take_all(rabbit_b, unique)) == ["2", "3"]


def test_declared_things_are_declared_on_the_next_broker(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F28 with independent brokers: exchange, exchange binding, queues and bindings follow."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    outer = kombu.Exchange(f"{unique}-outer", type="topic")
    inner = kombu.Exchange(f"{unique}-inner", type="fanout")
    channel = connection.default_channel
    outer(channel).declare()
    inner(channel).declare()
    inner(channel).bind_to(outer, routing_key="news.#")
    for number in (1, 2):
        kombu.Queue(f"{unique}-{number}", inner)(channel).declare()
    producer = kombu.Producer(connection, exchange=outer)
    proxy.reset()
    producer.publish("hello", routing_key="news.today", serializer="raw")
    for number in (1, 2):
        assert bodies(take_all(rabbit_b, f"{unique}-{number}")) == ["hello"]


def test_f20_threads_share_one_connection(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F20: several threads send over one Connection while its link is reset.

    Each has a producer and a channel of its own, made beforehand: making channels is no more safe
    in several threads than anywhere in py-amqp.
    """
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b, initialReconnectDelay=1)
    declared(connection, unique)

    producers = [kombu.Producer(connection.channel()) for _ in range(4)]

    def stream(worker: int, producer: kombu.Producer) -> None:
        for number in range(50):
            send(producer, unique, f"{worker}-{number}", retry=number % 2 == 0)
            if worker == 0 and number % 10 == 5:
                proxy.reset()

    workers = [lab.background(partial(stream, n, p)) for n, p in enumerate(producers)]
    for worker in workers:
        worker.join()
    both = take_all(rabbit_a, unique) + take_all(rabbit_b, unique)
    assert {*bodies(both)} == {f"{w}-{n}" for w in range(4) for n in range(50)}


def test_publishing_inside_a_consumer_callback(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F20: request and reply in one callback; a reset in between loses no request and no reply."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy)
    requests = declared(connection, unique)
    declared(connection, f"{unique}-replies")
    producer = kombu.Producer(connection)
    send(producer, unique, *range(10))
    handled: list[str] = []

    def answer(message: kombu.Message) -> None:
        send(producer, f"{unique}-replies", str(message.body))
        handled.append(str(message.body))
        if len(handled) == 5:
            proxy.reset()
            send(producer, f"{unique}-replies", "while the consumer's link is dead")
        message.ack()

    def consume() -> None:
        with connection.Consumer(requests, on_message=answer, prefetch_count=1):
            while len({*handled}) < 10:
                connection.drain_events(timeout=30)

    with pytest.raises(connection.connection_errors):
        consume()
    connection.close()
    again = lab.connect(proxy)
    connection, requests = again, kombu.Queue(unique)
    producer = kombu.Producer(again)
    consume()
    replies = bodies(take_all(rabbit_a, f"{unique}-replies"))
    assert {*map(str, range(10))} <= {*replies}
    assert "while the consumer's link is dead" in replies


def test_a_bug_of_ours_is_no_lost_connection(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the caller; taken for a broken link it would have the message sent for ever."""
    peer = lab.peer()
    connection = lab.connect(peer)
    producer = kombu.Producer(connection)

    def buggy(*_: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(AmqpLink, "_settled", buggy)
        with pytest.raises(KeyError, match="a bug"):
            send(producer, "q", "first", retry=False)
    send(producer, "q", "second")
    assert [message.body for message in peer.messages] == [b"first", b"second"]
    assert connection.transport.broker.supervisor.epoch == 1
