"""Timers, callbacks and other threads with a failover connection of pika's kind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.pika_lab import process_until

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

pytestmark = pytest.mark.integration

Connect = Callable[..., Any]


def test_timers_and_threadsafe_callbacks_survive(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ
) -> None:
    """call_later, remove_timeout, add_callback_threadsafe and sleep go on over a failover."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    ran: list[str] = []
    connection.call_later(0.4, lambda: ran.append("late"))
    connection.call_later(0.1, lambda: ran.append("early"))
    cancelled = connection.call_later(0.2, lambda: ran.append("cancelled"))
    connection.remove_timeout(cancelled)
    proxy.reset()
    thread = threading.Timer(
        0.15, lambda: connection.add_callback_threadsafe(lambda: ran.append("other thread"))
    )
    thread.start()
    connection.sleep(0.7)
    thread.join()
    process_until(connection, lambda: len(ran) >= 3)
    assert [name for name in ran if name != "other thread"] == ["early", "late"]
    assert ran.count("other thread") == 1


def test_callbacks_run_in_an_outage(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F18: a consumer can be stopped from another thread while there is no broker."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare(unique)
    channel.basic_consume(unique, lambda *_: None)
    consuming = lab.background(channel.start_consuming)
    proxy.refuse()
    proxy.reset()
    assert wait_until(lambda: connection._session._recoverer)
    connection.add_callback_threadsafe(channel.stop_consuming)
    consuming.join()
    ran: list[int] = []
    connection.call_later(0.1, lambda: ran.append(1))
    lab.background(partial(connection.sleep, 0.5)).join()
    assert ran == [1]


def test_another_thread_wakes_start_consuming(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, unique: str
) -> None:
    """A threadsafe callback, stop_consuming and close from elsewhere end the wait at once."""
    connection = connect(rabbit_a)
    for end in ("callback", "stop", "close"):
        channel = connection.channel()
        name = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_consume(name, lambda *_: None)
        consuming = lab.background(channel.start_consuming)
        if end == "callback":
            connection.add_callback_threadsafe(channel.stop_consuming)
        elif end == "stop":
            channel.stop_consuming()
        else:
            connection.close()
        assert consuming.is_over_within(30), end


def test_reentrancy_is_refused(connect: Connect, rabbit_a: RabbitMQ, unique: str) -> None:
    """As in pika: start_consuming inside a callback; declarations inside are fine."""
    connection = connect(rabbit_a)
    channel = connection.channel()
    channel.queue_declare(unique)
    seen: list[str] = []

    def handle(chan: Any, method: Any, properties: Any, body: bytes) -> None:
        with pytest.raises(pika.exceptions.ReentrancyError):
            chan.start_consuming()
        seen.append(chan.queue_declare("", exclusive=True).method.queue)
        connection.process_data_events()
        chan.stop_consuming()

    channel.basic_consume(unique, handle, auto_ack=True)
    channel.basic_publish("", unique, "x")
    channel.basic_publish("", unique, "y")
    channel.start_consuming()
    assert len(seen) == 1
