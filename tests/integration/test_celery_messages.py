"""What becomes of Celery's messages that cannot be delivered, and of those sent from a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import amqp
import pytest
from kombu import Exchange, Queue

import understudy
import understudy.kombu
from understudy import MessageFailed
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.celery_worker import Worker, client

pytestmark = pytest.mark.integration

PATIENCE = 60.0


def settings_for(broker: RabbitMQ, queue: str, options: str = "", **more: Any) -> dict[str, Any]:
    uri = f"failover:({broker.uri})?timeout=20000{options}"
    return {"broker_url": uri, "task_default_queue": queue, **more}


def delete(broker: RabbitMQ, queue: str) -> None:
    user, password = next(iter(broker.users.items()))
    where = f"{broker.host}:{broker.port}"
    with amqp.Connection(where, userid=user, password=password) as connection:
        connection.channel().queue_delete(queue)


@pytest.mark.parametrize("retry", [True, False])
def test_a_task_without_a_queue_raises(rabbit_a: RabbitMQ, unique: str, retry: bool) -> None:
    """Its queue was deleted after Celery had declared it: the broker returns the message."""
    settings = settings_for(rabbit_a, unique, task_publish_retry=retry)
    with client(settings) as app:
        mark = app.tasks["tests.mark"]
        mark.delay()
        delete(rabbit_a, unique)
        with pytest.raises(understudy.Unroutable) as caught:
            mark.delay()
        assert isinstance(caught.value, amqp.ChannelError)
        assert caught.value.message_id
        mark.delay()  # on a connection for which Celery declares its queue anew
    assert rabbit_a.queue_depth(unique) == 1


def test_a_tracked_task_without_a_queue_is_told_by_flush(rabbit_a: RabbitMQ, unique: str) -> None:
    """delay() has returned by then; later sends and other messages are not troubled."""
    events: list[Any] = []
    with client(settings_for(rabbit_a, unique, "&trackMessages=true"), events) as app:
        mark = app.tasks["tests.mark"]
        mark.delay()
        assert understudy.kombu.flush(PATIENCE)
        delete(rabbit_a, unique)
        mark.delay()
        with pytest.raises(understudy.Unroutable) as caught:
            understudy.kombu.flush(PATIENCE)
        assert understudy.kombu.flush(PATIENCE)
        assert wait_until(lambda: [e for e in events if isinstance(e, MessageFailed)], PATIENCE)
        failed = [event for event in events if isinstance(event, MessageFailed)]
        assert [event.message_id for event in failed] == [caught.value.message_id]


def test_messages_for_whoever_listens_never_raise(rabbit_a: RabbitMQ, unique: str) -> None:
    """Events, broadcasts, pidbox replies, rpc results, a fanout of tasks."""
    fanout = Exchange(unique, type="fanout")
    settings = settings_for(rabbit_a, unique, result_backend="rpc://")
    with client(settings) as app:
        with app.events.default_dispatcher() as dispatcher:
            dispatcher.send("worker-custom", text="nobody listens")
        app.control.broadcast("shutdown", destination=["nobody@nowhere"])
        assert app.control.inspect(["nobody@nowhere"], timeout=0.5).ping() is None
        with app.connection_for_write() as connection:
            mailbox = app.control.mailbox(connection)
            mailbox._publish_reply({}, mailbox.reply_exchange.name, unique, "ticket")

        class Request:
            reply_to, correlation_id = unique, "id"

        app.backend.store_result("id", 42, "SUCCESS", request=Request())
        queue = Queue(unique, fanout)
        app.tasks["tests.mark"].apply_async(queue=queue, declare=[fanout])
        delete(rabbit_a, unique)
        app.tasks["tests.mark"].apply_async(exchange=fanout, routing_key="any", declare=[fanout])


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_subtasks_tracked_in_a_pool_outlive_the_worker(
    rabbit_a: RabbitMQ, tmp_path: Path, unique: str, pool: str
) -> None:
    """trackMessages=true in a child, which skips atexit: it flushes as the worker ends."""
    elsewhere = f"{unique}-marks"
    settings = settings_for(
        rabbit_a,
        unique,
        "&trackMessages=true",
        task_routes={"tests.mark": {"queue": elsewhere}},
        task_create_missing_queues=True,
    )
    count = 400
    with (
        Worker(
            settings,
            tmp_path,
            name=f"w-{unique[-8:]}",
            pool=pool,
            concurrency=2,
            options=["-Q", unique],
        ) as worker,
        client(settings) as app,
    ):
        worker.wait_ready()
        for _ in range(2):
            app.tasks["tests.spread"].delay(count)
        assert wait_until(lambda: len(worker.journal.ids("sent")) > count, PATIENCE)
        worker.terminate()
    sent = worker.journal.ids("sent")
    print(f"{pool}: {len(sent)} sent by tasks, {rabbit_a.queue_depth(elsewhere)} in the queue")
    assert len(sent) == 2 * count
    assert rabbit_a.queue_depth(elsewhere) == 2 * count
