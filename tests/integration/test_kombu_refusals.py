"""What a broker refuses is the caller's error, names the message, and never moves us elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import amqp
import kombu
import pytest

from understudy.errors import DeliveryFailed, Refused, Unroutable
from understudy.testing.brokers import RabbitMQ
from understudy.testing.kombu_lab import prepare, send

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Plain = Callable[[RabbitMQ], amqp.Channel]


def check(error: DeliveryFailed, connection: kombu.Connection, message_id: str) -> None:
    assert error.message_id == message_id
    assert message_id in str(error)
    assert not isinstance(error, OSError)
    assert not isinstance(error, connection.recoverable_connection_errors)
    assert not isinstance(error, connection.recoverable_channel_errors)


@pytest.mark.parametrize("retry", [False, True])
def test_nack(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, events: Events, retry: bool
) -> None:
    """A full queue that rejects: MessageNacked, and the same connection goes on."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b, on_event=events.add)
    prepare(connection, unique, queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    send(connection, unique)
    with pytest.raises(amqp.exceptions.MessageNacked) as caught:
        send(connection, unique, message_id="m-2", retry=retry)
    assert isinstance(caught.value, Refused)
    check(caught.value, connection, "m-2")
    rabbit_a_free = f"{unique}-free"
    prepare(connection, rabbit_a_free)
    send(connection, rabbit_a_free)
    assert rabbit_a.queue_depth(rabbit_a_free) == 1
    assert proxy.accepted == 1
    assert events.names == ["Connected"]


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("kind", ["no such exchange", "internal exchange"])
def test_404_and_403(
    lab: Lab,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    plain: Plain,
    unique: str,
    kind: str,
    retry: bool,
) -> None:
    """NotFound and AccessRefused as kombu raises them; other channels stay open."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    prepare(connection, unique)
    other = connection.channel()
    expected: type[Exception] = amqp.exceptions.NotFound
    if kind == "internal exchange":
        expected = amqp.exceptions.AccessRefused
        channel = plain(rabbit_a)
        declare = amqp.spec.Exchange.Declare
        channel.send_method(
            declare,
            "BssbbbbbF",
            (0, unique, "direct", False, False, False, True, False, {}),
            wait=amqp.spec.Exchange.DeclareOk,
        )
    for number in range(3):
        with pytest.raises(expected) as caught:
            send(connection, "key", exchange=unique, message_id=f"m-{number}", retry=retry)
        assert isinstance(caught.value, Refused)
        check(caught.value, connection, f"m-{number}")
    assert other.connection.connected
    assert connection.default_channel.connection is not None
    send(connection, unique)
    assert other.queue_declare(unique, passive=True).message_count == 1
    assert proxy.accepted == 1


@pytest.mark.parametrize("retry", [False, True])
def test_unroutable_when_mandatory(lab: Lab, rabbit_a: RabbitMQ, unique: str, retry: bool) -> None:
    """mandatory: Unroutable is raised and on_return is called; without it, silence as ever."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy)
    told: list[tuple[Any, ...]] = []
    producer = kombu.Producer(connection, on_return=lambda *args: told.append(args))
    producer.publish("x", routing_key=unique, serializer="raw", retry=retry)
    with pytest.raises(Unroutable) as caught:
        producer.publish(
            "x", routing_key=unique, serializer="raw", mandatory=True, message_id="m", retry=retry
        )
    assert isinstance(caught.value, amqp.exceptions.ChannelError)
    check(caught.value, connection, "m")
    assert len(told) == 1
    assert told[0][2] == unique
    prepare(connection, unique)
    producer.publish("y", routing_key=unique, serializer="raw", mandatory=True)
    assert rabbit_a.queue_depth(unique) == 1
    assert proxy.accepted == 1


def test_declaration_with_other_arguments(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """406 is raised as kombu raises it; publishing goes on."""
    connection = lab.connect(rabbit_a)
    prepare(connection, unique)
    with pytest.raises(amqp.exceptions.PreconditionFailed):
        kombu.Queue(unique, durable=False)(connection.channel()).declare()
    send(connection, unique)
    assert rabbit_a.queue_depth(unique) == 1


def test_declaration_refused_by_the_next_broker_is_no_reason_to_stop(
    lab: Lab,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    plain: Plain,
    unique: str,
    our_log: pytest.LogCaptureFixture,
) -> None:
    """The second broker knows the queue with other arguments: its own definition stands."""
    plain(rabbit_b).queue_declare(unique, durable=False, auto_delete=False)
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    prepare(connection, unique)
    proxy.refuse()
    proxy.reset()
    send(connection, unique)
    assert rabbit_b.queue_depth(unique) == 1
    assert "queue_declare was refused" in our_log.text


def test_f51_oversize_message(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, events: Events
) -> None:
    """F51: larger than RabbitMQ's max_message_size: an error at the caller, no reconnecting."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b, on_event=events.add)
    prepare(connection, unique)
    set_limit = "application:set_env(rabbit, max_message_size, {})."
    limit = rabbit_a.ctl("eval", "rabbit_misc:get_env(rabbit, max_message_size, 0).").strip()
    rabbit_a.ctl("eval", set_limit.format(1000))  # read by each new channel
    try:
        for _ in range(2):
            with pytest.raises(amqp.exceptions.PreconditionFailed) as caught:
                send(connection, unique, "x" * 5000, message_id="large")
            check(caught.value, connection, "large")
        send(connection, unique, "small")
    finally:
        rabbit_a.ctl("eval", set_limit.format(limit))
    assert rabbit_a.queue_depth(unique) == 1
    assert proxy.accepted == 1
    assert events.names == ["Connected"]


@pytest.mark.parametrize("code", [501, 505, 541, 320])
def test_poison_message_that_closes_the_connection(lab: Lab, unique: str, code: int) -> None:
    """A message that closes the connection twice is refused; the next one goes through."""

    def judge(connection: Any, nth: int, message: Any) -> Any:
        return ("close_connection", code) if message.body == b"poison" else "ack"

    peers = [lab.peer(on_publish=judge), lab.peer(on_publish=judge)]
    connection = lab.connect(*peers, initialReconnectDelay=1, timeout=20000)
    send(connection, unique, "good")
    if code == 320:  # forced: an operator's doing, says nothing about the message
        peers[1].on_publish = lambda connection, nth, message: "ack"
        send(connection, unique, "poison")
    else:
        with pytest.raises(Refused) as caught:
            send(connection, unique, "poison", message_id="p", retry=True)
        check(caught.value, connection, "p")
        assert sum(m.body == b"poison" for p in peers for m in p.messages) == 2
    send(connection, unique, "next")
    assert [m.body for p in peers for m in p.messages].count(b"next") == 1


def test_forced_closes_never_count_against_a_message(lab: Lab, unique: str) -> None:
    """Both brokers shut down (320) while it is on its way, several times: it still arrives."""
    left = [6]

    def judge(connection: Any, nth: int, message: Any) -> Any:
        if message.body == b"good" and left[0]:
            left[0] -= 1
            return ("close_connection", 320)
        return "ack"

    peer = lab.peer(on_publish=judge)
    connection = lab.connect(peer, initialReconnectDelay=1, timeout=20000)
    send(connection, unique, "good")
    assert len(peer.messages) == 7


def test_nack_of_a_peer_that_confirms_many_at_once(lab: Lab, unique: str) -> None:
    """basic.nack for exactly the message that waits."""
    peer = lab.peer(on_publish=lambda c, nth, message: "nack" if nth == 2 else "ack_multiple")
    connection = lab.connect(peer)
    send(connection, unique)
    with pytest.raises(amqp.exceptions.MessageNacked):
        send(connection, unique)
    send(connection, unique)
    assert peer.accepted == 1


def test_messages_that_cannot_be_encoded_are_the_callers_error(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """A header that AMQP cannot carry: raised at once, no reconnecting, nothing half-written."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy)
    prepare(connection, unique)
    with pytest.raises(amqp.exceptions.FrameSyntaxError):
        send(connection, unique, headers={"x": object()})
    with pytest.raises(Exception, match=r".") as caught:
        send(connection, "k" * 300)
    assert not isinstance(caught.value, connection.recoverable_connection_errors)
    send(connection, unique)
    assert rabbit_a.queue_depth(unique) == 1
    assert proxy.accepted == 1
