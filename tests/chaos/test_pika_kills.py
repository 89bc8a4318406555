"""Brokers are killed and frozen at random under a pika application: nothing reported is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pytest

from understudy.pika import BlockingConnection, TransactionRolledBack
from understudy.testing.brokers import RabbitMQ

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.slow]

FAULTS = 12
YOUNG = 2.5  # s; RabbitMQ 3.10 may forget a queue that is younger when it is killed


class Application:
    """Three ways of sending, one consumer; each a thread and a connection of its own."""

    def __init__(self, uri: str, queue: str) -> None:
        self._uri = uri
        self._queue = queue
        self._is_over = threading.Event()
        self.sent: set[str] = set()  # reported as sent
        self.consumed: set[str] = set()
        self.errors: list[BaseException] = []
        self.events: list[str] = []
        runs: list[Callable[[Any], None]] = [
            self._send_confirmed,
            self._send_tracked,
            self._send_in_transactions,
            self._consume,
        ]
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), daemon=True) for run in runs
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread of the application hangs"

    def _guarded(self, run: Callable[[Any], None]) -> None:
        tracks = "true" if run == self._send_tracked else "false"
        try:
            with BlockingConnection(
                f"{self._uri}&trackMessages={tracks}",
                on_event=lambda event: self.events.append(type(event).__name__),
            ) as connection:
                run(connection)
        except BaseException as exc:
            self.errors.append(exc)

    def _send_confirmed(self, connection: Any) -> None:
        channel = connection.channel()
        channel.queue_declare(self._queue, durable=True)
        number = 0
        while not self._is_over.is_set():
            channel.basic_publish("", self._queue, f"confirmed {number}")
            self.sent.add(f"confirmed {number}")
            number += 1

    def _send_tracked(self, connection: Any) -> None:
        channel = connection.channel()
        channel.queue_declare(self._queue, durable=True)
        number = 0
        sent = set()
        while not self._is_over.is_set():
            channel.basic_publish("", self._queue, f"tracked {number}")
            sent.add(f"tracked {number}")
            number += 1
        assert connection.flush(30)
        self.sent |= sent

    def _send_in_transactions(self, connection: Any) -> None:
        channel = connection.channel()
        channel.queue_declare(self._queue, durable=True)
        channel.tx_select()
        number = 0
        while not self._is_over.is_set():
            batch = [f"tx {number + index}" for index in range(10)]
            for text in batch:
                channel.basic_publish("", self._queue, text)
            try:
                channel.tx_commit()
            except TransactionRolledBack:
                continue  # the same batch again
            self.sent.update(batch)
            number += 10

    def _consume(self, connection: Any) -> None:
        channel = connection.channel()
        channel.queue_declare(self._queue, durable=True)
        channel.basic_qos(prefetch_count=50)

        def handle(chan: Any, method: Any, properties: Any, body: bytes) -> None:
            self.consumed.add(body.decode())
            chan.basic_ack(method.delivery_tag)

        channel.basic_consume(self._queue, handle)
        while not self._is_over.is_set():
            connection.process_data_events(time_limit=0.2)


def left(broker: RabbitMQ, queue: str) -> set[str]:
    """What still waits on a broker, by pika's own means."""
    address = pika.ConnectionParameters(broker.host, broker.port)
    with pika.BlockingConnection(address) as connection:
        channel = connection.channel()
        found: set[str] = set()
        while True:
            method, _, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.add(body.decode())


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_over_kills_and_freezes(
    rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, seed: int
) -> None:
    """F20, F21, F28, F36: one broker is up at any moment; counted at the end."""
    rng = random.Random(seed)
    members = ",".join(f"amqp://guest:guest@{b.host}:{b.port}//" for b in rabbits)
    for broker in rabbits:
        address = pika.ConnectionParameters(broker.host, broker.port)
        with pika.BlockingConnection(address) as connection:
            connection.channel().queue_declare(unique, durable=True)
    time.sleep(YOUNG)
    application = Application(f"failover:({members})?heartbeat=1000&connectTimeout=1000", unique)
    application.start()
    for _ in range(FAULTS):
        time.sleep(rng.uniform(0.3, 1.5))
        victim = rng.choice(rabbits)
        if rng.random() < 0.5:
            victim.kill()
            victim.start()
        else:
            victim.freeze()
            time.sleep(rng.uniform(0.5, 4.0))
            victim.thaw()
    application.stop()
    assert application.errors == []
    there = application.consumed.union(*(left(broker, unique) for broker in rabbits))
    assert len(application.sent) > 500
    assert application.sent - there == set()
    assert application.events.count("Interrupted") >= FAULTS // 4
