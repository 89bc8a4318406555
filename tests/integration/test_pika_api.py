"""The rest of pika's API on a failover connection, and the options of the URI."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy import errors
from understudy.pika import BlockingChannel, BlockingConnection, ConnectFailed
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration

Connect = Callable[..., Any]


def process_until(connection: Any, is_over: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_over():
        assert time.monotonic() < until, "it did not come"
        connection.process_data_events(time_limit=0.2)


def of_broker(broker: RabbitMQ, **more: Any) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(broker.host, broker.port, **more)


def test_drop_in_for_pikas_parameters(rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, lab: Lab) -> None:
    """One parameters object, a list, URLParameters, a plain URI: all are endpoints."""
    nowhere = pika.ConnectionParameters("127.0.0.1", 1)
    url = f"amqp://guest:guest@{rabbit_a.host}:{rabbit_a.port}/%2F"
    given: list[Any] = [
        of_broker(rabbit_a),
        [nowhere, of_broker(rabbit_a, heartbeat=600)],
        (pika.URLParameters(url),),
        pika.URLParameters(url + "?connection_attempts=3&retry_delay=5&socket_timeout=7"),
        url,
        f"failover:({url}?frame_max=8192&locale=en_US)",
    ]
    for parameters in given:
        with BlockingConnection(parameters) as connection:
            assert isinstance(connection, pika.BlockingConnection)
            with connection.channel() as channel:
                assert isinstance(channel, pika.adapters.blocking_connection.BlockingChannel)
                assert isinstance(channel, BlockingChannel)
                assert channel.channel_number == int(channel) == 1
                assert channel.connection is connection
            assert channel.is_closed
            assert connection.basic_nack_supported
            assert connection.publisher_confirms
        assert connection.is_closed


@pytest.mark.parametrize(
    "parameters",
    [
        "failover:(amqp://a)?timeot=3",
        "failover:(stomp://a)",
        "failover:(amqp://a?frame_max=big)",
        "failover:(amqp://a?connection_attempts=3)",
        "failover:(amqps://a?cafile=/nowhere/ca.pem)",
        [],
        42,
    ],
)
def test_f02_mistakes_are_found_at_construction(parameters: Any) -> None:
    """F02: before any socket, as a ConfigurationError."""
    with pytest.raises(errors.ConfigurationError):
        BlockingConnection(parameters)


def test_f07_giving_up_lists_every_endpoint(lab: Lab) -> None:
    """F07, F38: nobody listens: an AMQPConnectionError that tells each attempt, no password."""
    uri = lab.uri("amqp://u:secret@127.0.0.1:1//", startupMaxReconnectAttempts=2)
    with pytest.raises(pika.exceptions.AMQPConnectionError) as caught:
        BlockingConnection(uri)
    failed: Any = caught.value
    assert "secret" not in str(failed) + repr(failed)
    assert isinstance(failed, ConnectFailed)
    assert [attempt.endpoint for attempt in failed.attempts] == ["amqp://u:**@127.0.0.1:1//"]


def test_wrong_password_goes_to_the_next_endpoint(
    connect: Connect, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ
) -> None:
    """A refused login is one endpoint's failure."""
    bad = f"amqp://guest:wrong@{rabbit_a.host}:{rabbit_a.port}//"
    connection = connect(bad, rabbit_b)
    assert str(rabbit_b.port) in repr(connection).partition(" of ")[0]
    assert "wrong" not in repr(connection)


def test_reconnect_false_and_giving_up(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, events: Events
) -> None:
    """F08, F52: reconnect=false: the loss is the caller's error, for the life of the connection."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, reconnect="false", on_event=events.add)
    channel = connection.channel()
    channel.basic_publish("", "nowhere", "x")
    proxy.reset()
    for _ in range(2):
        with pytest.raises(pika.exceptions.AMQPConnectionError) as caught:
            channel.basic_publish("", "nowhere", "y")
        assert isinstance(caught.value, errors.ConnectionLost)
    assert wait_until(lambda: events.count("GaveUp") == 1)
    connection.close()


def test_idle_death_is_noticed_without_heartbeats(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, events: Events
) -> None:
    """heartbeat=0: a closed connection is noticed and replaced while nobody calls."""
    proxy = lab.proxy(rabbit_a)
    connect(proxy, heartbeat=0, on_event=events.add)
    proxy.fin()
    assert wait_until(lambda: events.count("Resumed") == 1)


def test_blocked_and_unblocked(lab: Lab, connect: Connect, events: Events) -> None:
    """Callbacks get (connection, frame); a lost broker that blocked counts as unblocked."""
    one, two = lab.peer(), lab.peer()
    connection = connect(one, two, on_event=events.add)
    told: list[Any] = []
    connection.add_on_connection_blocked_callback(lambda *given: told.append(given))
    connection.add_on_connection_unblocked_callback(lambda *given: told.append(given))
    one.block("low on disk")
    process_until(connection, lambda: len(told) == 1)
    assert told[0][0] is connection
    assert told[0][1].method.reason == "low on disk"
    one.reset()
    process_until(connection, lambda: len(told) == 2)
    assert isinstance(told[1][1].method, pika.spec.Connection.Unblocked)
    assert wait_until(lambda: events.count("Unblocked") == 1)


def test_a_broker_that_blocks_from_the_beginning_is_noticed(
    lab: Lab, connect: Connect, events: Events
) -> None:
    """Its word may come in one read with the end of the handshake, or later."""
    peer = lab.peer()
    peer.block("low on disk")
    for number in range(20):
        connect(peer, on_event=events.add, heartbeat=1000)
        assert wait_until(lambda: events.count("Blocked") == number + 1)  # noqa: B023


def test_blocked_timeout_leaves_the_broker(lab: Lab, connect: Connect, events: Events) -> None:
    """blockedTimeout: a broker that takes no messages for so long is left."""
    one, two = lab.peer(), lab.peer()
    connection = connect(one, two, blockedTimeout=200, heartbeat=1000, on_event=events.add)
    channel = connection.channel()
    one.block("low on memory")
    process_until(connection, lambda: events.count("Resumed") == 1)
    channel.basic_publish("", "q", "x")
    assert [message.body for message in two.messages] == [b"x"]


def test_f40_backup_and_f42_priority(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, events: Events
) -> None:
    """F40, F42: with a spare at hand, and back home when the priority broker is stable again."""
    proxy = lab.proxy(rabbit_a)
    options = {"backup": "true", "priorityBackup": "true"}
    connection = connect(proxy, rabbit_b, on_event=events.add, **options)
    channel = connection.channel()
    channel.basic_publish("", "nowhere", "x")
    proxy.refuse()
    proxy.reset()
    channel.basic_publish("", "nowhere", "x")
    assert str(rabbit_b.port) in repr(connection).partition(" of ")[0]
    proxy.heal()
    process_until(connection, lambda: events.count("Resumed") == 2)
    channel.basic_publish("", "nowhere", "x")
    assert str(proxy.port) in repr(connection).partition(" of ")[0]
    assert events.count("Interrupted") == 2


def test_update_secret(connect: Connect, rabbit_a: RabbitMQ) -> None:
    """RabbitMQ answers it also where passwords do not expire."""
    connection = connect(rabbit_a)
    connection.update_secret("guest", "renewed")
    connection.channel()


def test_channels_keep_number_and_mode(lab: Lab, connect: Connect, rabbit_a: RabbitMQ) -> None:
    """Numbers are reused as in pika, chosen ones are kept, over a failover too."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channels = [connection.channel(), connection.channel(7), connection.channel()]
    assert [*map(int, channels)] == [1, 7, 2]
    channels[0].close()
    with pytest.raises(pika.exceptions.ChannelWrongStateError):
        connection.channel(7)
    proxy.reset()
    channels[1].basic_qos(prefetch_count=1)
    assert connection._session.wire.channels.keys() == {2, 7}
    assert int(connection.channel()) == 1
    assert channels[1].flow(True)


def test_a_request_over_which_brokers_close_the_connection(
    connect: Connect, rabbit_a: RabbitMQ, events: Events
) -> None:
    """flow(False) is not implemented by RabbitMQ (540): tried twice, then the caller's error."""
    connection = connect(rabbit_a, on_event=events.add)
    channel = connection.channel()
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        channel.flow(False)
    assert caught.value.reply_code == 540
    channel.basic_qos(prefetch_count=1)
    assert connection.is_open


def test_channel_errors_close_the_channel_alone(
    connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """404, 406 as pika raises them; a wrong ack ends start_consuming with 406."""
    connection = connect(rabbit_a)
    first, second = connection.channel(), connection.channel()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        first.queue_declare(unique, passive=True)
    assert caught.value.reply_code == 404
    second.queue_declare(unique)
    second.basic_consume(unique, lambda *_: None)
    second.basic_ack(99)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        second.start_consuming()
    assert caught.value.reply_code == 406
    assert first.is_closed
    assert second.is_closed
    assert connection.is_open
    connection.channel().queue_delete(unique)


def test_f39_close_ends_every_wait(lab: Lab, connect: Connect, rabbit_a: RabbitMQ) -> None:
    """F39: close() in the middle of an outage returns soon, and frees a waiting send."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel = connection.channel()
    proxy.refuse()
    proxy.reset()
    sending = lab.background(partial(channel.basic_publish, "", "q", "x"))
    assert wait_until(lambda: connection._session._recoverer)
    lab.background(connection.close).join()
    with pytest.raises(pika.exceptions.AMQPConnectionError, match="while this call waited"):
        sending.join()
    assert connection.is_closed
    assert not channel.is_open
    with pytest.raises(pika.exceptions.ConnectionWrongStateError):
        connection.close()
    with pytest.raises(pika.exceptions.ConnectionWrongStateError):
        connection.channel()


def test_a_flush_after_close_says_that_it_is_closed(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ
) -> None:
    """It did not wait when the connection was closed."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, trackMessages="true", closeTimeout=100)
    channel = connection.channel()
    proxy.black_hole()
    channel.basic_publish("", "q", "left")
    connection.close()
    with pytest.raises(pika.exceptions.AMQPConnectionError, match="the connection is closed"):
        connection.flush()


def test_close_never_waits_for_a_dead_peer(lab: Lab, connect: Connect, rabbit_a: RabbitMQ) -> None:
    """A black hole: closing is over within its bound."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    connection.channel()
    proxy.black_hole()
    lab.background(connection.close).join()
    proxy.heal(drop=True)


def test_fork_gives_the_child_nothing(connect: Connect, rabbit_a: RabbitMQ, events: Events) -> None:
    """A child may not use the parent's connection; the parent's lives on."""
    connection = connect(rabbit_a, on_event=events.add)
    channel = connection.channel()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                channel.basic_publish("", "q", "x")
            except pika.exceptions.AMQPError:
                code = 0
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    channel.basic_publish("", "q", "x")
    assert events.names == ["Connected"]


def test_long_outage_events_pair(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, events: Events
) -> None:
    """process_data_events keeps its time limit in an outage, and resumes afterwards."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, on_event=events.add, warnAfterReconnectAttempts=2)
    proxy.refuse()
    proxy.reset()
    lab.background(lambda: connection.process_data_events(time_limit=0.5)).join()
    process_until(connection, lambda: events.count("SlowReconnect") >= 1)
    proxy.heal()
    process_until(connection, lambda: events.count("Resumed") == 1)
    assert [name for name in events.names if name != "SlowReconnect"] == [
        "Connected",
        "Interrupted",
        "Resumed",
    ]
