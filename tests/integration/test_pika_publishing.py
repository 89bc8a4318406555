"""Publishing with the pika adapter: whatever breaks, a send that returned is in a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy import errors
from understudy.pika import SendTimeout
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import (
    BASIC_ACK,
    BASIC_PUBLISH,
    CHANNEL_OPEN,
    CONFIRM_SELECT,
)

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Connect = Callable[..., Any]


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


@pytest.mark.chaos
def test_f28_broker_killed_while_sending(
    lab: Lab,
    connect: Connect,
    rabbits: tuple[RabbitMQ, RabbitMQ],
    take_all: Take,
    events: Events,
    unique: str,
) -> None:
    """F28, F14: SIGKILL in the middle of a stream: nothing reported as sent is lost."""
    first, second = rabbits
    channel = connect(first, second, on_event=events.add).channel()
    channel.queue_declare(unique, durable=True)
    first.settle()  # else so young a queue may go with its node
    half = threading.Event()

    def stream() -> None:
        for number in range(400):
            if number == 100:
                half.set()
            channel.basic_publish("", unique, str(number))

    sending = lab.background(stream)
    assert half.wait(60)
    first.kill()
    sending.join()
    assert wait_until(lambda: events.count("Resumed") == 1)
    assert events.count("Interrupted") == 1
    first.start()
    on_first = take_all(first, unique)
    on_second = take_all(second, unique)
    assert {*map(int, bodies(on_first + on_second))} == set(range(400))
    doubled = len(on_first) + len(on_second) - 400
    assert doubled == 0 or (doubled == 1 and on_second[0].is_resend)


@pytest.mark.chaos
def test_f36_frozen_broker_is_left(
    lab: Lab,
    connect: Connect,
    rabbits: tuple[RabbitMQ, RabbitMQ],
    take_all: Take,
    unique: str,
) -> None:
    """F36: a broker that is frozen in the middle of a send is left after two heartbeats."""
    first, second = rabbits
    channel = connect(first, second, heartbeat=1000).channel()
    channel.queue_declare(unique, durable=True)
    channel.basic_publish("", unique, "before")
    first.freeze()
    lab.background(lambda: channel.basic_publish("", unique, "frozen")).join()
    first.thaw()
    assert bodies(take_all(second, unique)) == ["frozen"]


def test_f28_cut_between_publish_and_confirm(
    lab: Lab,
    connect: Connect,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    take_all: Take,
    unique: str,
) -> None:
    """F28: the broker has the message and its confirm is lost: sent again with the same id."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy, rabbit_b).channel()
    channel.queue_declare(unique, durable=True)
    channel.basic_publish("", unique, "before")
    cut = proxy.cut_on(BASIC_ACK, direction="down", before=True)
    channel.basic_publish("", unique, "doubted")
    assert cut.fired == 1
    channel.basic_publish("", unique, "after")
    first, copy = take_all(rabbit_a, unique), take_all(rabbit_b, unique)
    assert bodies(first) == ["before", "doubted"]
    assert bodies(copy) == ["doubted", "after"]
    assert first[1].id == copy[0].id
    assert [m.is_resend for m in first + copy] == [False, False, True, False]


def test_f28_application_message_id_and_properties_are_kept(
    lab: Lab,
    connect: Connect,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    take_all: Take,
    unique: str,
) -> None:
    """F28: an id that the application gave goes on both copies, and no other is added."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy, rabbit_b).channel()
    channel.queue_declare(unique, durable=True)
    proxy.cut_on(BASIC_ACK, direction="down", before=True)
    properties = pika.BasicProperties(message_id="order-17", headers={"a": 1}, delivery_mode=1)
    channel.basic_publish("", unique, b"doubted", properties)
    assert properties.headers == {"a": 1}
    (one,), (two,) = take_all(rabbit_a, unique), take_all(rabbit_b, unique)
    assert one.properties["message_id"] == two.properties["message_id"] == "order-17"
    assert one.properties["delivery_mode"] == 1
    assert one.headers == {"a": 1}
    assert two.headers == {"a": 1, "x-understudy-resend": True}


@pytest.mark.parametrize("method", [CHANNEL_OPEN, CONFIRM_SELECT, BASIC_PUBLISH])
@pytest.mark.parametrize("before", [True, False])
def test_f28_cut_at_every_step_of_a_send(
    lab: Lab,
    connect: Connect,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    take_all: Take,
    unique: str,
    method: Any,
    before: bool,
) -> None:
    """F28: the cut comes before or after any frame that we send: the message arrives."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, rabbit_b)
    proxy.cut_on(method, direction="up", before=before)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    channel.basic_publish("", unique, "message")
    assert "message" in bodies(take_all(rabbit_b, unique) + take_all(rabbit_a, unique))


def test_messages_are_persistent_unless_said_otherwise(
    connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    channel = connect(rabbit_a).channel()
    channel.queue_declare(unique, durable=True)
    channel.basic_publish("", unique, "plain")
    channel.basic_publish("", unique, "typed", pika.BasicProperties(content_type="text/plain"))
    channel.basic_publish("", unique, "", pika.BasicProperties(delivery_mode=1))
    plain, typed, transient = take_all(rabbit_a, unique)
    assert plain.properties["delivery_mode"] == typed.properties["delivery_mode"] == 2
    assert typed.properties["content_type"] == "text/plain"
    assert transient.properties["delivery_mode"] == 1
    assert plain.headers["x-understudy-id"] != typed.headers["x-understudy-id"]


def test_large_bodies_pass_whole(
    connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """Bodies around and far above the largest frame arrive as they were."""
    channel = connect(rabbit_a).channel()
    channel.queue_declare(unique, durable=True)
    sizes = [0, 131063, 131064, 131065, 3_000_000]
    for size in sizes:
        channel.basic_publish("", unique, b"x" * size)
    assert [len(channel.basic_get(unique, auto_ack=True)[2]) for _ in sizes] == sizes


def test_f15_send_timeout_is_a_deadline_and_the_connection_stays_usable(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F15: without a broker a send ends in SendTimeout; with one again the next send works."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy, timeout=3000).channel()
    channel.queue_declare(unique, durable=True)
    proxy.refuse()
    proxy.reset()
    with pytest.raises(SendTimeout) as caught:
        channel.basic_publish("", unique, "lost")
    assert caught.value.message_id
    assert isinstance(caught.value, pika.exceptions.AMQPError)
    assert not isinstance(caught.value, pika.exceptions.AMQPConnectionError | OSError)
    proxy.heal()

    def sends() -> bool:
        try:
            channel.basic_publish("", unique, "after")
        except SendTimeout:
            return False
        return True

    assert wait_until(sends)
    assert set(bodies(take_all(rabbit_a, unique))) == {"after"}


def test_f15_timeout_while_written_says_in_doubt(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F15: what was written and not confirmed is in doubt; it is not sent again."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy, timeout=3000).channel()
    channel.queue_declare(unique, durable=True)
    channel.basic_publish("", unique, "before")
    proxy.black_hole()
    with pytest.raises(SendTimeout) as caught:
        channel.basic_publish("", unique, "doubted")
    assert caught.value.written
    proxy.heal(drop=True)


def test_refused_by_the_broker_is_the_applications_error(
    connect: Connect, rabbit_a: RabbitMQ, events: Events, unique: str
) -> None:
    """An unknown exchange closes the channel, as in pika, and is no reason to fail over."""
    connection = connect(rabbit_a, on_event=events.add)
    channel = connection.channel()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        channel.basic_publish(unique, "", b"", pika.BasicProperties(message_id="m1"))
    refusal: Any = caught.value
    assert refusal.reply_code == 404
    assert isinstance(refusal, errors.Refused)
    assert refusal.message_id == "m1"
    assert "m1" in str(caught.value)
    assert channel.is_closed
    assert connection.is_open
    with pytest.raises(pika.exceptions.ChannelWrongStateError):
        channel.basic_publish("", unique, b"")
    connection.channel().queue_declare(unique, exclusive=True)
    assert events.names == ["Connected"]


def test_unroutable_and_nack_with_and_without_confirm_delivery(
    connect: Connect, rabbit_a: RabbitMQ, events: Events, unique: str
) -> None:
    """Without confirm_delivery only on_return hears of it; with it, pika raises its errors."""
    connection = connect(rabbit_a, on_event=events.add)
    channel = connection.channel()
    returned: list[Any] = []
    channel.add_on_return_callback(lambda *given: returned.append(given))
    channel.queue_declare(unique, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.basic_publish("", "nowhere", "back", mandatory=True)
    connection.process_data_events()
    (given,) = returned
    assert given[0] is channel
    assert given[3] == b"back"
    for _ in range(3):
        channel.basic_publish("", unique, "full")
    assert wait_until(lambda: events.count("MessageFailed") >= 1)
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError) as unroutable:
        channel.basic_publish("", "nowhere", "back", mandatory=True)
    error: Any = unroutable.value
    assert error.messages[0].body == b"back"
    assert error.message_id == error.messages[0].properties.headers["x-understudy-id"]
    assert isinstance(error, errors.Unroutable)
    with pytest.raises(pika.exceptions.NackError) as nacked:
        channel.basic_publish("", unique, "full")
    assert isinstance(nacked.value, errors.Refused)
    channel.queue_delete(unique)


def test_what_amqp_cannot_carry_is_the_callers_error(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, events: Events, unique: str
) -> None:
    """F51: nothing is written, nothing is lost, no failover."""
    channel = connect(rabbit_a, on_event=events.add).channel()
    with pytest.raises(pika.exceptions.ShortStringTooLong):
        channel.basic_publish("", "k" * 300, b"")
    with pytest.raises(pika.exceptions.UnsupportedAMQPFieldException):
        channel.basic_publish("", unique, b"", pika.BasicProperties(headers={"x": object()}))
    with pytest.raises(errors.Refused, match="above 131072"):
        channel.basic_publish("", unique, b"", pika.BasicProperties(headers={"x": "y" * 140000}))
    assert channel.is_open
    channel.basic_publish("", unique, b"fine")
    assert events.names == ["Connected"]


def test_f51_closed_over_a_message_twice_is_a_refusal(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, events: Events
) -> None:
    """A message over which brokers close the whole connection is tried once more, then refused."""
    peer = lab.peer(on_publish=lambda *_: ("close_connection", 501))
    channel = connect(peer, on_event=events.add).channel()
    with pytest.raises(errors.Refused, match="501"):
        channel.basic_publish("", "q", b"", pika.BasicProperties(message_id="poison"))
    assert [m.body for m in peer.messages] == [b"", b""]
    peer.on_publish = lambda *_: "ack"
    channel.basic_publish("", "q", b"fine")


def test_confirms_false_does_not_wait(lab: Lab, connect: Connect) -> None:
    """confirms=false: fire and forget, no confirm mode at all."""
    peer = lab.peer(on_publish=lambda *_: "ignore")
    channel = connect(peer, confirms="false").channel()
    for number in range(50):
        channel.basic_publish("", "q", str(number))
    assert wait_until(lambda: len(peer.messages) == 50)


def test_every_thread_publishes_at_once_while_one_consumes(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """A send does not wait for a thread that sits in start_consuming, nor for a long callback."""
    connection = connect(rabbit_a)
    channel = connection.channel()
    channel.queue_declare(unique)
    inside, leave = threading.Event(), threading.Event()
    got: list[bytes] = []

    def slow(_: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append(body)
        if body == b"hold":
            inside.set()
            assert leave.wait(60)
        if len(got) == 41:
            channel.stop_consuming()

    channel.basic_consume(unique, slow, auto_ack=True)
    consuming = lab.background(channel.start_consuming)
    channel.basic_publish("", unique, "hold")
    assert inside.wait(60)

    def send(name: str) -> None:
        for number in range(10):
            channel.basic_publish("", unique, f"{name}{number}")

    senders = [lab.background(partial(send, name)) for name in "abcd"]
    for sender in senders:
        sender.join()
    leave.set()
    consuming.join()
    assert len(got) == 41
    for name in "abcd":
        assert [b for b in got if b.decode()[0] == name] == [
            f"{name}{number}".encode() for number in range(10)
        ]


def test_f36_what_a_stalled_broker_does_not_read_does_not_pile_up(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F36: sends that time out hold no memory; those that were held back were never sent."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, timeout="700", connectTimeout="5000")
    channel = connection.channel()
    proxy.black_hole()
    written = []
    for _ in range(12):
        with pytest.raises(SendTimeout) as caught:
            channel.basic_publish("", unique, b" " * 2**20)
        written.append(caught.value.written)
    assert connection._session.wire.unwritten < 2 * 2**20
    assert written == sorted(written, reverse=True)
    assert written[0]
    assert not written[-1]
