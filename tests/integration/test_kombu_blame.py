"""Only a failed connection makes the process leave its broker; nothing else is blamed on it."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import kombu
import pytest
from kombu.exceptions import OperationalError

import understudy.kombu
from understudy.errors import Refused, SendTimeout, Unroutable
from understudy.testing import ScriptedPeer
from understudy.testing.brokers import RabbitMQ, Redis
from understudy.testing.kombu_lab import send

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration


def test_a_declaration_that_amqp_cannot_carry_is_the_callers_error(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, events: Events
) -> None:
    connection = lab.connect(rabbit_a, on_event=events.add)
    channel = connection.default_channel
    with pytest.raises(Exception, match="object") as caught:
        channel.queue_declare(unique, durable=True, arguments={"x": object()})
    assert not isinstance(caught.value, OSError)
    channel.queue_declare(unique, durable=True, auto_delete=False)
    send(connection, unique)
    assert events.names == ["Connected"]


def test_a_callback_that_fails_with_an_os_error_is_not_a_lost_broker(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, events: Events
) -> None:
    connection = lab.connect(rabbit_a, rabbit_b, on_event=events.add)
    queue = kombu.Queue(unique)
    queue(connection.default_channel).declare()
    send(connection, unique)

    def callback(body: object, message: kombu.Message) -> None:
        message.ack()
        raise FileNotFoundError("no such invoice")

    with (
        connection.Consumer(queue, callbacks=[callback], accept=["application/data"]),
        pytest.raises(FileNotFoundError),
    ):
        connection.drain_events(timeout=30)
    assert connection.connected
    assert events.names == ["Connected"]


def test_a_message_is_not_blamed_for_an_earlier_one_whose_sender_gave_up(lab: Lab) -> None:
    """The first publish gets no answer in time; its late return must not meet the second."""

    def answer(peer: Any, nth: int, message: Any) -> str:
        if nth == 1:
            return "ignore"
        if nth == 2:
            peer.return_message(message_of_first[0])
        return "ack"

    message_of_first: list[Any] = []

    def remember(peer: Any, nth: int, message: Any) -> str:
        if nth == 1:
            message_of_first.append(message)
        return answer(peer, nth, message)

    with ScriptedPeer(on_publish=remember) as peer:
        connection = lab.connect(peer, timeout=3000)
        with pytest.raises(SendTimeout) as caught:
            send(connection, "q", mandatory=True)
        assert caught.value.written
        send(connection, "q", mandatory=True)


@pytest.mark.parametrize("error", [Refused, Unroutable])
def test_a_refusal_reads_well_and_survives_pickle(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, error: type[Exception]
) -> None:
    connection = lab.connect(rabbit_a)
    where: dict[str, Any] = {"exchange": unique} if error is Refused else {"mandatory": True}
    with pytest.raises(error) as caught:
        send(connection, unique, message_id="order-7", **where)
    assert "order-7" in str(caught.value)
    assert "None" not in repr(caught.value)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert type(copied) is type(caught.value)
    assert str(copied) == str(caught.value)


def test_a_task_is_named_by_what_its_sender_knows(lab: Lab, rabbit_a: RabbitMQ) -> None:
    connection = lab.connect(rabbit_a)
    with pytest.raises(Unroutable, match=r"shop\.add\[my-task-id\]"):
        send(connection, "nowhere", headers={"task": "shop.add", "id": "my-task-id"})


def test_a_callback_in_the_options_can_be_shown_and_pickled(lab: Lab, rabbit_a: RabbitMQ) -> None:
    """Celery's `inspect stats` sends transport_options as JSON."""
    connection = lab.connect(rabbit_a, on_event=print)
    connection.connect()
    assert json.loads(json.dumps(connection.info()["transport_options"]))
    assert pickle.loads(pickle.dumps(connection.transport_options))


def test_a_redis_that_stops_answering_does_not_hold_a_send_beyond_its_timeout(
    lab: Lab, redis_server: Redis, unique: str
) -> None:
    connection = lab.connect(redis_server.uri, timeout=3000)
    send(connection, unique)
    redis_server.freeze()
    try:
        with pytest.raises(OperationalError) as caught:
            send(connection, unique)
    finally:
        redis_server.thaw()
    assert isinstance(caught.value, SendTimeout)


def test_a_tracked_message_that_redis_cannot_carry_holds_up_nothing(
    lab: Lab, redis_server: Redis, unique: str
) -> None:
    connection = lab.connect(redis_server.uri, trackMessages="true")
    send(connection, unique, headers={"bad": object()})
    send(connection, unique, "good")
    with pytest.raises(Refused):
        understudy.kombu.flush(30)
    assert understudy.kombu.flush(30)
