"""trackMessages with the pika adapter: sends return at once, nothing of it gets lost."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy import errors
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_ACK, BASIC_PUBLISH

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Connect = Callable[..., Any]


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


def test_f28_everything_in_doubt_is_sent_again_in_order(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F28, F36: 300 messages, cut five times: all there, in the original order, resends marked."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, trackMessages="true", initialReconnectDelay=0)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    for nth in range(5):
        proxy.cut_on(BASIC_ACK, nth + 1, direction="down")
        for number in range(60):
            channel.basic_publish("", unique, str(60 * nth + number))
    assert connection.flush(60)
    found = take_all(rabbit_a, unique)
    assert [*map(int, dict.fromkeys(bodies(found)))] == list(range(300))
    for message in {m.body: m for m in found if bodies(found).count(m.body) > 1}.values():
        assert message.is_resend


def test_send_returns_without_a_broker_until_the_outbox_is_full(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F14, F15: bounded by maxCacheSize; then SendTimeout; what is in the outbox arrives."""
    proxy = lab.proxy(rabbit_a)
    options = {"trackMessages": "true", "maxCacheSize": 3000, "timeout": 3000}
    connection = connect(proxy, **options)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    proxy.refuse()
    proxy.reset()
    for number in range(10):
        channel.basic_publish("", unique, str(number) * 100)
    with pytest.raises(errors.SendTimeout) as caught:
        channel.basic_publish("", unique, "too much" * 10)
    assert not caught.value.written
    assert not connection.flush(0.1)
    proxy.heal()
    assert connection.flush(60)
    assert bodies(take_all(rabbit_a, unique)) == [str(number) * 100 for number in range(10)]


def test_confirmed_while_the_application_is_idle(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """Confirms are taken in, and a lost link is replaced, without any call of the application's."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, trackMessages="true")
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    cut = proxy.cut_on(BASIC_PUBLISH, 3, direction="up", before=True)
    for number in range(5):
        channel.basic_publish("", unique, str(number))
    assert cut.wait()
    outbox = connection._tracked._outbox
    assert wait_until(lambda: bool(outbox.is_empty))
    assert {*bodies(take_all(rabbit_a, unique))} == set("01234")
    assert connection.flush(0.0)


def test_refusals_are_raised_by_flush_and_told(
    connect: Connect, rabbit_a: RabbitMQ, take_all: Take, events: Events, unique: str
) -> None:
    """Poison is taken out after two closes of our channel; the innocent around it arrive."""
    connection = connect(rabbit_a, trackMessages="true", on_event=events.add)
    channel = connection.channel()
    returned: list[Any] = []
    channel.add_on_return_callback(lambda *given: returned.append(given[3]))
    channel.queue_declare(unique, durable=True)
    for number in range(3):
        channel.basic_publish("", unique, str(number))
    channel.basic_publish(unique, "", "poison", pika.BasicProperties(message_id="poison"))
    channel.basic_publish("", "nowhere", "returned", mandatory=True)
    for number in range(3, 6):
        channel.basic_publish("", unique, str(number))
    failures: list[errors.DeliveryFailed] = []

    def is_flushed() -> bool:
        try:
            return bool(connection.flush(60))
        except errors.DeliveryFailed as exc:
            failures.append(exc)
            return False

    assert wait_until(is_flushed)
    assert failures
    assert wait_until(lambda: events.count("MessageFailed") == 2)
    assert any(getattr(event, "message_id", "") == "poison" for event in events.all)
    assert channel.is_open
    connection.process_data_events()
    assert returned == [b"returned"]
    assert [*map(int, dict.fromkeys(bodies(take_all(rabbit_a, unique))))] == list(range(6))


def test_refused_raised_by_close(connect: Connect, rabbit_a: RabbitMQ, unique: str) -> None:
    connection = connect(rabbit_a, trackMessages="true")
    channel = connection.channel()
    channel.basic_publish("", unique, "x", mandatory=True)
    with pytest.raises(errors.Unroutable):
        connection.close()
    assert connection.is_closed


def test_what_is_left_at_close_is_told(
    lab: Lab,
    connect: Connect,
    rabbit_a: RabbitMQ,
    events: Events,
    our_log: pytest.LogCaptureFixture,
    unique: str,
) -> None:
    """closeTimeout bounds a close; what is left then is logged with its ids."""
    proxy = lab.proxy(rabbit_a)
    options = {"trackMessages": "true", "closeTimeout": 300}
    connection = connect(proxy, on_event=events.add, **options)
    channel = connection.channel()
    proxy.black_hole()
    channel.basic_publish("", unique, "x", pika.BasicProperties(message_id="left-behind"))
    connection.close()
    assert wait_until(lambda: events.count("MessageFailed") == 1)
    assert "left-behind" in our_log.text
    proxy.heal(drop=True)


def test_direct_reply_to_stays_on_the_applications_channel(
    connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """RPC with amq.rabbitmq.reply-to works with trackMessages too."""
    connection = connect(rabbit_a, trackMessages="true")
    server, client = connection.channel(), connection.channel()
    server.queue_declare(unique)

    def serve(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_publish("", properties.reply_to, body.upper())
        channel.basic_ack(method.delivery_tag)

    answers: list[bytes] = []
    server.basic_consume(unique, serve)
    client.basic_consume(
        "amq.rabbitmq.reply-to", lambda *given: answers.append(given[3]), auto_ack=True
    )
    properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    client.basic_publish("", unique, "question", properties)
    for _ in range(600):
        if answers:
            break
        connection.process_data_events(time_limit=0.1)
    assert answers == [b"QUESTION"]


@pytest.mark.parametrize("how", ["close", "exit"])
def test_flushed_at_close_and_at_interpreter_exit(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str, how: str
) -> None:
    """A program that ends without a word loses nothing."""
    program = f"""
        from understudy.pika import BlockingConnection
        connection = BlockingConnection({lab.uri(rabbit_a, trackMessages="true")!r})
        channel = connection.channel()
        channel.queue_declare({unique!r}, durable=True)
        for number in range(200):
            channel.basic_publish("", {unique!r}, str(number))
        if {how!r} == "close":
            connection.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
    assert bodies(take_all(rabbit_a, unique)) == [str(number) for number in range(200)]
