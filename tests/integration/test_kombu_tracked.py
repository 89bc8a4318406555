"""trackMessages=true: sends return at once, and everything arrives, in order, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import amqp
import kombu
import pytest

import understudy.kombu
from understudy.errors import Refused, SendTimeout, Unroutable
from understudy.kombu.sender import Sender
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_ACK, BASIC_PUBLISH
from understudy.testing.kombu_lab import TRACK, cut_off, numbers, prepare, send, tracked

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


def has_left(sender: Sender) -> bool:
    return sender.window is None


@pytest.mark.chaos
def test_f36_f28_everything_is_in_after_a_kill(
    lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], take_all: Take, unique: str, events: Events
) -> None:
    """F36, F28: SIGKILL while thousands are on the way; order kept; resends before newer sends."""
    first, second = rabbits
    connection = tracked(lab, first, second, queue=unique, on_event=events.add)
    first.settle()  # else so young a queue may go with its node
    send(connection, unique, *range(2000))
    first.kill()
    send(connection, unique, *range(2000, 3000))
    assert understudy.kombu.flush(60)
    first.start()
    on_first, on_second = take_all(first, unique), take_all(second, unique)
    assert {*numbers(on_first)} | {*numbers(on_second)} == set(range(3000))
    for found in (on_first, on_second):
        assert numbers(found) == sorted(numbers(found))
    resends = [message.is_resend for message in on_second]
    assert resends == sorted(resends, reverse=True)
    assert {m.id for m in on_second if m.body == on_second[0].body} == {on_second[0].id}


def test_who_comes_back_after_all_was_closed_sends_at_once(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str, events: Events
) -> None:
    """F36: the publisher has left the broker meanwhile, and begins anew without a fault."""
    for number in range(3):
        connection = tracked(lab, rabbit_a, queue=unique, on_event=events.add)
        send(connection, unique, number)
        assert understudy.kombu.flush(30)
        sender = connection.transport.broker.tracked.sender
        connection.release()
        assert wait_until(partial(has_left, sender))
    assert numbers(take_all(rabbit_a, unique)) == [0, 1, 2]
    assert "Interrupted" not in events.names


@pytest.mark.parametrize("method", [BASIC_ACK, BASIC_PUBLISH])
@pytest.mark.parametrize("nth", [1, 3])
def test_f28_cut_while_many_are_in_flight(
    lab: Lab,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    take_all: Take,
    unique: str,
    method: Any,
    nth: int,
) -> None:
    """F28: cut at the nth publish or confirm: all are there, in order on each broker."""
    proxy = lab.proxy(rabbit_a)
    connection = tracked(lab, proxy, rabbit_b, queue=unique)
    cut = proxy.cut_on(method, nth, direction="up" if method == BASIC_PUBLISH else "down")
    for number in range(300):
        send(connection, unique, number)
        if number % 100 == 0:
            assert understudy.kombu.flush(30)
    assert understudy.kombu.flush(30)
    assert cut.fired == 1
    on_a, on_b = numbers(take_all(rabbit_a, unique)), numbers(take_all(rabbit_b, unique))
    assert {*on_a, *on_b} == set(range(300))
    assert on_a == sorted(on_a)
    assert on_b == sorted(on_b)


def test_returns_at_once_while_no_broker_is_there(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F14's counterpart: tracked sends do not wait for a broker, only for room."""
    proxy = lab.proxy(rabbit_a)
    connection = tracked(lab, proxy, queue=unique)
    producer = kombu.Producer(connection.default_channel)
    cut_off(proxy)

    def stream() -> None:
        for number in range(100):
            producer.publish(str(number), routing_key=unique, serializer="raw")

    lab.background(stream).join(15)
    assert not understudy.kombu.flush(0.2)
    proxy.heal()
    assert understudy.kombu.flush(30)
    assert numbers(take_all(rabbit_a, unique)) == [*range(100)]


def test_max_cache_size_bounds_what_waits(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """A full outbox makes the send wait; SendTimeout, never sent; room again when a broker is."""
    proxy = lab.proxy(rabbit_a)
    options = {"maxCacheSize": 5000, "timeout": 2000, "maxReconnectDelay": 50}
    connection = tracked(lab, proxy, queue=unique, **options)
    producer = kombu.Producer(connection.default_channel)
    cut_off(proxy)
    sent = 0

    def fill() -> None:
        nonlocal sent
        for sent in range(100):
            producer.publish(str(sent), routing_key=unique, serializer="raw")

    with pytest.raises(SendTimeout, match="outbox stayed full") as caught:
        fill()
    assert not caught.value.written
    assert caught.value.message_id
    assert isinstance(caught.value, kombu.exceptions.OperationalError)
    assert 10 <= sent <= 25
    proxy.heal()
    send(connection, unique, sent)
    assert understudy.kombu.flush(30)
    assert numbers(take_all(rabbit_a, unique)) == [*range(sent + 1)]


def test_one_message_larger_than_the_cache(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """It is admitted into an empty outbox."""
    connection = tracked(lab, rabbit_a, queue=unique, maxCacheSize=1000)
    for text in ("a" * 50_000, "b", "c" * 50_000):
        send(connection, unique, text)
    assert understudy.kombu.flush(30)
    assert [m.body[0] for m in take_all(rabbit_a, unique)] == ["a", "b", "c"]


def test_f36_idle_connection_notices_a_silent_broker(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str, events: Events
) -> None:
    """F36: black hole while the application is idle: reconnected before it sends again."""
    proxy = lab.proxy(rabbit_a)
    connection = tracked(lab, proxy, rabbit_b, queue=unique, heartbeat=1000, on_event=events.add)
    send(connection, unique, "before")
    assert understudy.kombu.flush(30)
    proxy.black_hole()
    assert wait_until(lambda: events.count("Resumed") == 1)
    send(connection, unique, "after")
    assert understudy.kombu.flush(30)
    assert [m.body for m in take_all(rabbit_b, unique)] == ["after"]


def test_refusals_are_told_by_flush_and_by_event(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, events: Events, take_all: Take
) -> None:
    """Nack, unknown exchange, unroutable and unencodable: never raised by a later send."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, on_event=events.add, **TRACK)
    full = f"{unique}-full"
    prepare(connection, unique)
    prepare(connection, full, queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    send(connection, full, "fits")
    assert understudy.kombu.flush(30)

    def failed() -> list[str]:
        return [event.message_id for event in events.all if hasattr(event, "message_id")]

    cases: list[tuple[str, type[Exception], type[Exception], dict[str, Any]]] = [
        (full, Refused, amqp.exceptions.MessageNacked, {}),
        ("key", Refused, amqp.exceptions.NotFound, {"exchange": f"{unique}-none"}),
        (f"{unique}-none", Unroutable, amqp.exceptions.ChannelError, {"mandatory": True}),
        (unique, Refused, amqp.exceptions.FrameSyntaxError, {"headers": {"x": object()}}),
    ]
    for number, (queue, ours, theirs, options) in enumerate(cases):
        send(connection, unique, f"before {number}")
        send(connection, queue, "refused", message_id=f"m-{number}", **options)
        send(connection, unique, f"after {number}")
        with pytest.raises(ours, match=f"m-{number}") as caught:
            understudy.kombu.flush(30)
        assert isinstance(caught.value, theirs)
        assert not isinstance(caught.value, connection.recoverable_connection_errors)
        assert wait_until(lambda number=number: f"m-{number}" in failed())  # type: ignore[misc]
        assert understudy.kombu.flush(30)
    assert failed() == ["m-0", "m-1", "m-2", "m-3"]
    assert {m.body for m in take_all(rabbit_a, unique)} == {
        f"{when} {n}" for when in ("before", "after") for n in range(4)
    }
    assert events.names.count("Interrupted") == 0


def test_refusal_is_raised_by_close(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """What nobody flushed is raised by close()."""
    connection = lab.connect(rabbit_a, **TRACK)
    connection.connect()
    send(connection, "key", "x", exchange=f"{unique}-none", message_id="m-1")
    with pytest.raises(Refused, match="m-1"):
        connection.close()


@pytest.mark.parametrize("close", [501, 541])
def test_poison_message_is_taken_out(lab: Lab, unique: str, close: int) -> None:
    """A message that closes the connection is found among the innocent; the rest arrives."""

    def judge(connection: Any, nth: int, message: Any) -> Any:
        return ("close_connection", close) if message.body == b"13" else "ack"

    peer = lab.peer(on_publish=judge)
    connection = lab.connect(peer, initialReconnectDelay=1, **TRACK)
    send(connection, unique, *range(13))
    send(connection, unique, 13, message_id="poison")
    send(connection, unique, *range(14, 30))
    with pytest.raises(Refused, match="poison"):
        understudy.kombu.flush(30)
    assert understudy.kombu.flush(30)
    assert {int(m.body) for m in peer.messages} == set(range(30))


@pytest.mark.parametrize("how", ["with", "close"])
def test_flushed_by_leaving(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str, how: str
) -> None:
    """close() and leaving ``with`` wait for what is on the way."""
    connection = lab.connect(rabbit_a, **TRACK)
    if how == "with":
        with connection:
            prepare(connection, unique)
            send(connection, unique, *range(500))
    else:
        prepare(connection, unique)
        send(connection, unique, *range(500))
        connection.close()
    assert numbers(take_all(rabbit_a, unique)) == [*range(500)]


def test_close_timeout_is_kept_and_reported(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, events: Events, our_log: pytest.LogCaptureFixture
) -> None:
    """closeTimeout: what is left is logged with its ids and told as events."""
    proxy = lab.proxy(rabbit_a)
    connection = tracked(lab, proxy, queue=unique, on_event=events.add, closeTimeout=500)
    producer = kombu.Producer(connection.default_channel)
    producer.publish("in", routing_key=unique, serializer="raw")
    assert understudy.kombu.flush(30)
    cut_off(proxy)
    producer.publish("left", routing_key=unique, serializer="raw", message_id="left-1")
    lab.background(connection.close).join(15)
    assert "1 tracked messages are left" in our_log.text
    assert "left-1" in our_log.text
    assert wait_until(lambda: "left-1" in [getattr(e, "message_id", "") for e in events.all])
    proxy.heal()


def test_without_confirms(lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str) -> None:
    """confirms=false, tracked and untracked: fire and forget, and still reconnecting."""
    for track in ("false", "true"):
        proxy = lab.proxy(rabbit_a)
        connection = lab.connect(proxy, confirms="false", trackMessages=track)
        prepare(connection, unique)
        send(connection, unique, 1)
        connection.close()
        connection.connect()
        proxy.reset()
        send(connection, unique, 2)
        connection.close()
        assert wait_until(lambda: rabbit_a.queue_depth(unique) == 2)
        assert numbers(take_all(rabbit_a, unique)) == [1, 2]
