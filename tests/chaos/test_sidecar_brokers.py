"""Real brokers as masters, on one data folder: what was confirmed outlives the master."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import understudy.pika
import understudy.stomp
from understudy.testing.background import Background
from understudy.testing.brokers import ActiveMQ, RabbitMQ, Redis, Server
from understudy.testing.stomp_lab import Listener
from understudyd.testing.estate import SidecarEstate, eventually
from understudyd.testing.real import SharedBrokers

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

MESSAGES = 500
KILL_AT = 250
CLIENT = {
    "maxReconnectDelay": 100,
    "timeout": 120_000,
    "randomize": "false",
    "warnAfterReconnectAttempts": 1000,
}


@pytest.fixture(params=["rabbitmq", "activemq"])
def brokers(
    request: pytest.FixtureRequest, tmp_path: Path, installed: Callable[[Server], None]
) -> Iterator[SharedBrokers]:
    installed(RabbitMQ() if request.param == "rabbitmq" else ActiveMQ())
    shared = SharedBrokers(request.param, tmp_path)
    yield shared
    shared.close()


@pytest.fixture(params=["file", "redis"])
def estate(
    request: pytest.FixtureRequest, brokers: SharedBrokers, unique: str, tmp_path: Path
) -> Iterator[SidecarEstate]:
    lock = None
    if request.param == "redis":
        redis: Redis = request.getfixturevalue("redis_server")
        lock = f"redis://127.0.0.1:{redis.port}/0?key={unique}"
    with SidecarEstate(
        lock,
        timings="fast",
        per_node=lambda node: brokers.keys(node.name),
        more={"store": str(tmp_path / "data")},
    ) as estate:
        yield estate.start()


class AmqpRun:
    """Sends and receives through pika on the failover URI."""

    def __init__(self, uri: str) -> None:
        self.received: set[str] = set()
        self._consumer = understudy.pika.BlockingConnection(uri)
        self._publisher = understudy.pika.BlockingConnection(uri)
        self._channel = self._publisher.channel()
        self._channel.queue_declare("orders", durable=True)
        self._channel.confirm_delivery()
        self._end = threading.Event()
        self._thread = Background(self._consume)

    def send(self, body: str) -> None:
        self._channel.basic_publish("", "orders", body.encode())

    def _consume(self) -> None:
        channel = self._consumer.channel()
        for method, _, body in channel.consume("orders", inactivity_timeout=0.1):
            if method is not None:
                self.received.add(body.decode())
                channel.basic_ack(method.delivery_tag)
            if self._end.is_set():
                break

    def close(self) -> None:
        self._end.set()
        self._thread.join(60)
        self._publisher.close()
        self._consumer.close()


class StompRun:
    """Sends and receives through stomp.py on the failover URI."""

    def __init__(self, uri: str) -> None:
        self._connection = understudy.stomp.Connection(uri)
        self._listener = Listener(self._connection)
        self._connection.set_listener("test", self._listener)
        self._connection.connect(wait=True)
        # by itself the broker acknowledges what it has sent, also what nobody could read any more
        self._connection.subscribe("/queue/orders", id="1", ack="client-individual")

    @property
    def received(self) -> set[str]:
        return {str(frame.body) for frame in self._listener.frames}

    def send(self, body: str) -> None:
        self._connection.send("/queue/orders", body, headers={"persistent": "true"})

    def close(self) -> None:
        self._connection.disconnect()


def test_all_messages_outlive_the_master(estate: SidecarEstate, brokers: SharedBrokers) -> None:
    """L02: 500 persistent messages, the master killed at 250."""
    master = estate.master(120)
    is_amqp = isinstance(brokers.servers["a"], RabbitMQ)
    uri = brokers.uri(**CLIENT)
    run: Any = AmqpRun(uri) if is_amqp else StompRun(uri)
    if is_amqp:
        server = brokers.servers[master.name]
        assert isinstance(server, RabbitMQ)
        server.settle()  # the queue itself, which Mnesia keeps in a cache for two seconds
    gap = 0.0
    for number in range(MESSAGES):
        if number == KILL_AT:
            broker = master.broker
            assert broker is not None
            os.kill(broker, signal.SIGKILL)
            killed = master.kill()
        run.send(str(number))
        if number == KILL_AT:
            gap = time.time() - killed
    other = estate.other(master)
    eventually(lambda: len(run.received) == MESSAGES)
    assert run.received == {str(number) for number in range(MESSAGES)}
    assert other.is_master
    taken = other.said("the lock is ours")[-1] - killed
    master_again = other.said("master after")[-1] - killed
    print(f"elected {taken:.3f} s, healthy {master_again:.3f} s, first confirmed {gap:.3f} s")
    run.close()
