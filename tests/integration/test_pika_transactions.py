"""Transactions of the pika adapter: replayed where that is possible, else rolled back and told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy import errors
from understudy.pika import TransactionRolledBack
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Connect = Callable[..., Any]

TX_COMMIT, TX_COMMIT_OK = (90, 20), (90, 21)  # class and method


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


def ready(connection: Any, queue: str) -> int:
    """Messages ready; RabbitMQ counts before it has put back what was rejected."""
    with connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def test_commit_and_rollback(
    connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    channel = connect(rabbit_a).channel()
    channel.queue_declare(unique, durable=True)
    assert isinstance(channel.tx_select().method, pika.spec.Tx.SelectOk)
    channel.basic_publish("", unique, "one")
    channel.basic_publish("", unique, "two")
    assert take_all(rabbit_a, unique) == []
    channel.tx_commit()
    channel.basic_publish("", unique, "three")
    channel.tx_rollback()
    channel.tx_commit()
    assert bodies(take_all(rabbit_a, unique)) == ["one", "two"]


def test_tx_after_publishing_opens_the_channel_anew(
    connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """Our confirm mode gives way to the application's tx: qos, consumers and number stay."""
    connection = connect(rabbit_a)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    channel.basic_qos(prefetch_count=1)
    channel.basic_publish("", unique, "confirmed")
    got: list[Any] = []
    channel.basic_consume(unique, lambda *given: got.append(given))
    channel.tx_select()
    while not got:
        connection.process_data_events(time_limit=0.2)
    channel.basic_publish("", unique, "in tx")
    channel.basic_ack(got[-1][1].delivery_tag)
    channel.stop_consuming()
    channel.tx_commit()
    assert int(channel) == 1
    assert bodies(take_all(rabbit_a, unique)) == ["in tx"]


def test_f30_open_transaction_is_replayed(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F30: what was sent in an open transaction is in the one that is committed elsewhere, once."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy).channel()
    channel.queue_declare(unique, durable=True)
    channel.tx_select()
    for number in range(3):
        channel.basic_publish("", unique, str(number))
    proxy.reset()
    channel.basic_publish("", unique, "3")
    channel.tx_commit()
    assert bodies(take_all(rabbit_a, unique)) == ["0", "1", "2", "3"]


def test_f30_without_tracking_the_commit_fails(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F30: trackTransactionProducers=false: nothing is in the queue, the next one works."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy, trackTransactionProducers="false").channel()
    channel.queue_declare(unique, durable=True)
    channel.tx_select()
    channel.basic_publish("", unique, "lost")
    proxy.reset()
    with pytest.raises(TransactionRolledBack) as caught:
        channel.tx_commit()
    assert isinstance(caught.value, pika.exceptions.AMQPChannelError)
    channel.basic_publish("", unique, "again")
    channel.tx_commit()
    assert bodies(take_all(rabbit_a, unique)) == ["again"]


@pytest.mark.parametrize("before", [True, False])
def test_f27_commit_in_doubt(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str, before: bool
) -> None:
    """F27: the reply of a commit is lost: told, not repeated by us; a repeat has the same id."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy).channel()
    channel.queue_declare(unique, durable=True)
    channel.tx_select()
    properties = pika.BasicProperties(message_id="m1")
    channel.basic_publish("", unique, "x", properties)
    if before:
        proxy.cut_on(TX_COMMIT, direction="up", before=True)
    else:
        proxy.cut_on(TX_COMMIT_OK, direction="down", before=True)
    with pytest.raises(TransactionRolledBack, match="before its commit was answered") as caught:
        channel.tx_commit()
    assert caught.value.is_in_doubt
    assert caught.value.message_ids
    channel.basic_publish("", unique, "x", properties)
    channel.tx_commit()
    found = take_all(rabbit_a, unique)
    assert len(found) == (1 if before else 2)
    assert {message.id for message in found} == {"m1"}


def test_f26_acks_in_a_lost_transaction_roll_it_back(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F26: the delivery comes again, the answer sent in that transaction does not exist."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    channel.queue_declare(unique + "-out", durable=True)
    connection.channel().basic_publish("", unique, "work")
    channel.tx_select()
    method, _, body = channel.basic_get(unique)
    channel.basic_publish("", unique + "-out", b"done " + body)
    channel.basic_ack(method.delivery_tag)
    proxy.reset()
    with pytest.raises(TransactionRolledBack, match="acknowledgements"):
        channel.tx_commit()
    method, _, body = channel.basic_get(unique)
    assert method.redelivered
    channel.basic_publish("", unique + "-out", b"done " + body)
    channel.basic_ack(method.delivery_tag)
    channel.tx_commit()
    assert bodies(take_all(rabbit_a, unique + "-out")) == ["done work"]
    assert take_all(rabbit_a, unique) == []


def test_f26_stale_ack_rolls_back(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F26: an ack of an earlier connection's delivery dooms the transaction that it is in."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    connection.channel().basic_publish("", unique, "work")
    channel.tx_select()
    method, _, _ = channel.basic_get(unique)
    proxy.reset()
    channel.queue_declare(unique, durable=True)
    channel.basic_publish("", unique, "answer")
    channel.basic_ack(method.delivery_tag)
    with pytest.raises(TransactionRolledBack, match="earlier connection"):
        channel.tx_commit()
    assert connection.stale_acks == 1
    channel.close()
    assert wait_until(lambda: ready(connection, unique) == 1)


def test_f17_rollback_without_a_broker_is_over_at_once(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F17: nothing hangs; a commit within timeout says so."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, timeout=3000)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    channel.tx_select()
    channel.basic_publish("", unique, "x")
    proxy.refuse()
    proxy.reset()
    connection.process_data_events(time_limit=0.2)
    channel.tx_rollback()
    with pytest.raises(errors.SendTimeout):
        channel.tx_commit()
    proxy.heal()
    connection.sleep(1.5)
    channel.basic_publish("", unique, "y")
    channel.tx_commit()
    assert bodies(take_all(rabbit_a, unique)) == ["y"]


@pytest.mark.parametrize("is_noticed", [False, True])
def test_refused_in_a_transaction(
    is_noticed: bool, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """An unknown exchange closes the channel, as in pika; the commit tells why, even if late."""
    connection = connect(rabbit_a)
    channel = connection.channel()
    channel.tx_select()
    channel.basic_publish(unique, "", "x")
    while is_noticed and channel.is_open:
        connection.process_data_events(1)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        channel.tx_commit()
    assert channel.is_closed
