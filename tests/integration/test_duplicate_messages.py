"""Duplicates as they really come about, through RabbitMQ, recognised by their consumers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import amqp
import kombu
import pika
import pytest
import stomp

import understudy.pika
import understudy.stomp
from understudy.duplicates import DuplicateWindow
from understudy.failover.deadline import Deadline
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ, Redis
from understudy.testing.celery_worker import Worker, client
from understudy.testing.frames import BASIC_ACK

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

pytestmark = pytest.mark.integration

PATIENCE = 60.0  # s
Plain = Callable[[RabbitMQ], amqp.Channel]


def consume_all(lab: Lab, broker: RabbitMQ, queue: str) -> tuple[list[Any], list[Any]]:
    """What a consumer with a window takes from a queue: (new, duplicates), all acknowledged."""
    new: list[Any] = []
    old: list[Any] = []

    def work(body: Any, message: Any) -> None:
        new.append(body)
        message.ack()

    def drop(body: Any, message: Any) -> None:
        old.append(body)
        message.ack()

    with lab.connect(broker) as connection:
        callback = DuplicateWindow().once(work, duplicate=drop)
        source = kombu.Queue(queue)(connection.default_channel)
        while (message := source.get()) is not None:
            callback(message.payload, message)
    return new, old


def test_the_resend_of_a_send_in_doubt_is_dropped(
    rabbit_a: RabbitMQ, lab: Lab, unique: str
) -> None:
    """F28: the broker has the message, its confirm is lost, a second copy is sent."""
    proxy = lab.proxy(rabbit_a)
    with lab.connect(proxy) as connection:
        kombu.Queue(unique)(connection.default_channel).declare()
        producer = connection.Producer()
        producer.publish("before", routing_key=unique)
        proxy.cut_on(BASIC_ACK, direction="down")
        producer.publish("in doubt", routing_key=unique)
        producer.publish("after", routing_key=unique)
    assert consume_all(lab, rabbit_a, unique) == (["before", "in doubt", "after"], ["in doubt"])


def test_a_transaction_that_was_repeated_is_recognised_by_its_ids(
    rabbit_a: RabbitMQ, lab: Lab, unique: str, plain: Plain
) -> None:
    """F27: its commit reply was lost; the broker had committed."""
    channel = plain(rabbit_a)
    channel.queue_declare(unique, auto_delete=False)
    channel.tx_select()
    for _ in range(2):
        for number in range(3):
            message = amqp.Message(str(number), message_id=f"{unique}-{number}")
            channel.basic_publish(message, routing_key=unique)
        channel.tx_commit()
    assert consume_all(lab, rabbit_a, unique) == (["0", "1", "2"], ["0", "1", "2"])


def test_messages_without_an_id_are_all_new(
    rabbit_a: RabbitMQ, lab: Lab, unique: str, plain: Plain
) -> None:
    channel = plain(rabbit_a)
    channel.queue_declare(unique, auto_delete=False)
    for _ in range(3):
        channel.basic_publish(amqp.Message("same"), routing_key=unique)
    channel.connection.close()
    assert consume_all(lab, rabbit_a, unique) == (["same"] * 3, [])


def test_a_callback_of_pika_never_sees_a_duplicate(rabbit_a: RabbitMQ, unique: str) -> None:
    new, old = [], []

    def work(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        new.append(body)
        channel.basic_ack(method.delivery_tag)

    def drop(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        old.append(body)
        channel.basic_ack(method.delivery_tag)

    address = f"failover:(amqp://guest:guest@{rabbit_a.host}:{rabbit_a.port})?timeout=20000"
    with understudy.pika.BlockingConnection(address) as connection:
        channel = connection.channel()
        channel.queue_declare(unique, exclusive=True)
        for body in (b"1", b"2", b"3"):
            named = pika.BasicProperties(message_id=unique) if body != b"2" else None
            channel.basic_publish("", unique, body, named)
        channel.basic_consume(unique, DuplicateWindow().once(work, duplicate=drop))
        deadline = Deadline(PATIENCE)
        while len(new) + len(old) < 3:
            deadline.check()
            connection.process_data_events(time_limit=0.1)
    assert (new, old) == ([b"1", b"2"], [b"3"])


def test_a_listener_of_stomp_never_sees_a_duplicate(rabbit_a: RabbitMQ, unique: str) -> None:
    new: list[str] = []
    old: list[str] = []

    class Listener(stomp.ConnectionListener):
        def __init__(self) -> None:
            self.on_message = DuplicateWindow().once(
                lambda frame: new.append(frame.body), duplicate=lambda frame: old.append(frame.body)
            )

    host, port = rabbit_a.stomp_uri.rpartition("/")[2].rpartition("@")[2].split(":")
    address = f"failover:(stomp://guest:guest@{host}:{port})?timeout=20000"
    with understudy.stomp.Connection(address) as connection:
        connection.set_listener("", Listener())
        connection.connect(wait=True)
        connection.subscribe(f"/queue/{unique}", id="1", ack="auto")
        for body in ("1", "2", "3"):
            headers = {"x-understudy-id": unique} if body != "2" else {}
            connection.send(f"/queue/{unique}", body, headers=headers)
        assert wait_until(lambda: len(new) + len(old) == 3, PATIENCE)
    assert (new, old) == (["1", "2"], ["3"])


def test_celery_does_a_redelivered_task_once_and_retries_it_all_the_same(
    rabbit_a: RabbitMQ,
    redis_server: Redis,
    lab: Lab,
    tmp_path: Path,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is cut during the work: the broker gives the task to another worker."""
    proxy = lab.proxy(rabbit_a)
    settings = {
        "broker_url": lab.uri(proxy),
        "task_default_queue": unique,
        "worker_prefetch_multiplier": 1,
    }
    window = {"UNDERSTUDY_WINDOW": redis_server.uri}
    workers = [
        Worker(settings, tmp_path, name=f"{unique}-{n}", pool="threads", env=window)
        for n in range(2)
    ]
    with workers[0], workers[1], client({**settings, "broker_url": lab.uri(rabbit_a)}) as app:
        for worker in workers:
            worker.wait_ready()
        journal = workers[0].journal
        task = app.send_task("tests.late_once", [3.0], task_id=f"late-{unique}")
        assert wait_until(lambda: journal.values("begin", task.id), PATIENCE)
        proxy.reset()
        app.send_task("tests.late_once", [3.0], task_id=task.id)  # and a second copy of the send
        dropped = f"tests.late_once[{task.id}] was already done"
        assert wait_until(lambda: sum(w.log.count(dropped) for w in workers) >= 2, PATIENCE)
        assert journal.ids("begin", "end")[task.id] == 2

        for _ in range(2):
            app.send_task("tests.stubborn_once", [2], task_id=f"stubborn-{unique}")
        tries = lambda: journal.values("try", f"stubborn-{unique}")  # noqa: E731
        assert wait_until(lambda: len(tries()) >= 3, PATIENCE)
        assert wait_until(lambda: rabbit_a.queue_depth(unique) == 0, PATIENCE)
        for worker in workers:
            worker.terminate()
    assert set(tries()) == {"0", "1", "2"}
    assert tries().count("2") == 1
