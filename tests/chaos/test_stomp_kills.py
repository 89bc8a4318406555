"""Whatever is killed, frozen or cut: what the STOMP adapter reported as sent is in a broker."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stomp

from understudy.testing import wait_until
from understudy.testing.brokers import ActiveMQ, RabbitMQ, start_all
from understudy.testing.stomp_lab import Listener, StompLab, stomp_address

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

Broker = RabbitMQ | ActiveMQ

FAILOVERS = 200
SPARE_FAILOVERS = 20  # before anything is counted: what a process starts once is started


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


@pytest.fixture(params=["rabbitmq", "activemq"])
def pair(
    request: pytest.FixtureRequest, launch: Callable[[Broker], Broker]
) -> Iterator[tuple[Broker, Broker]]:
    """Two independent brokers, to be killed."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbits")
    else:
        first: ActiveMQ = request.getfixturevalue("activemq")
        yield first, launch(ActiveMQ(name="second"))
        start_all(first)


class Publishing:
    """A thread that sends numbers as fast as it may, and notes what was reported as sent."""

    def __init__(self, connection: Any, queue: str, name: str) -> None:
        self.sent: list[str] = []
        self.error: BaseException | None = None
        self._connection = connection
        self._queue = queue
        self._name = name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                body = f"{self._name}-{len(self.sent)}"
                self._connection.send(self._queue, body)
                self.sent.append(body)
                time.sleep(0.002)
        except BaseException as exc:
            self.error = exc

    def grows_by(self, count: int, seconds: float = 120.0) -> None:
        """Wait until so many more were sent."""
        goal, deadline = len(self.sent) + count, time.monotonic() + seconds
        while len(self.sent) < goal:
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"{self._name} hangs after {len(self.sent)}"
            time.sleep(0.01)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive()
        assert self.error is None, self.error


def found_on(brokers: tuple[Broker, Broker], queue: str) -> set[str]:
    """Everything in the queues of both, by plain stomp.py."""
    found: set[str] = set()
    for broker in brokers:
        listener = Listener()
        plain = stomp.Connection12([stomp_address(broker)], vhost="/")
        plain.set_listener("", listener)
        plain.connect("guest", "guest", wait=True)
        plain.send(queue, "mark", receipt="it is there")
        listener.wait_until(lambda it: it.receipts, "the receipt")
        plain.subscribe(queue, id="1", ack="auto")
        listener.wait_for_bodies("mark")
        plain.disconnect()
        found |= set(listener.bodies)
    return found - {"mark"}


def test_kills_and_freezes_lose_nothing(
    lab: StompLab, pair: tuple[Broker, Broker], unique: str
) -> None:
    """F14, F21, F28, F36, F50: SIGKILL, restart, freeze, kill of the other."""
    queue = f"/queue/{unique}"
    options: dict[str, Any] = {"timeout": 40000, "heartbeat": 1000}
    confirmed = lab.connect(*pair, **options)
    tracked = lab.connect(*pair, **options, trackMessages="true")
    threads = [Publishing(confirmed, queue, "confirmed"), Publishing(tracked, queue, "tracked")]
    first, second = pair
    for broker, other in ((first, second), (second, first)):
        for thread in threads:
            thread.grows_by(50)
        if isinstance(broker, RabbitMQ):
            broker.settle()  # else a young durable queue may go with its node
        broker.kill()
        for thread in threads:
            thread.grows_by(50)
        broker.start()
        if isinstance(other, RabbitMQ):
            other.settle()
    current = confirmed.transport.current_host_and_port
    frozen = next(broker for broker in pair if stomp_address(broker) == current)
    frozen.freeze()
    try:
        for thread in threads:
            thread.grows_by(50)
    finally:
        frozen.thaw()
    for thread in threads:
        thread.end()
    assert tracked.flush(90)
    sent = {body for thread in threads for body in thread.sent}
    confirmed.disconnect()
    tracked.disconnect()
    missing = sent - found_on(pair, queue)
    assert not missing, sorted(missing)[:20]


@pytest.mark.slow
def test_a_consumer_goes_on_through_kills(
    lab: StompLab, pair: tuple[Broker, Broker], unique: str
) -> None:
    """F19, F20, F21: acknowledged one by one; what was confirmed is consumed, from both brokers."""
    queue = f"/queue/{unique}"
    consumer = lab.connection(*pair, heartbeat=1000)
    listener = Listener(consumer)
    consumer.set_listener("", listener)
    consumer.connect(wait=True)
    consumer.subscribe(queue, id="1", ack="client-individual")
    publishing = Publishing(consumer, queue, "m")
    for broker in pair:
        publishing.grows_by(50)
        if isinstance(broker, RabbitMQ):
            broker.settle()
        broker.kill()
        publishing.grows_by(50)
        broker.start()
    publishing.end()
    for broker in pair:  # what waits on a broker that the consumer is not on
        late = lab.connection(broker)
        late.set_listener("", listener)
        late.connect(wait=True)
        late.subscribe(queue, id="1", ack="auto")
    listener.wait_for_bodies(*publishing.sent)
    assert not listener.errors


def census() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("backup", [pytest.param("true", marks=pytest.mark.slow), "false"])
def test_200_failovers_leave_nothing_behind(
    lab: StompLab, stomp_broker: Broker, unique: str, backup: str
) -> None:
    """F41: no thread, no descriptor, no memory; nothing lost on the way."""
    proxies = lab.proxy(stomp_broker), lab.proxy(stomp_broker)
    connection = lab.connection(*proxies, backup=backup, initialReconnectDelay=0)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    early = census()
    for turn in range(FAILOVERS):
        connection.send(f"/queue/{unique}", str(turn))
        if turn == SPARE_FAILOVERS:
            early = census()
        for proxy in proxies:
            proxy.reset() if turn % 2 else proxy.fin()
    connection.send(f"/queue/{unique}", "end")
    listener.wait_for_bodies("end", *map(str, range(FAILOVERS)))
    # a spare that is being dialed has two ends in the proxy besides
    bounds = early[0] + 1, early[1] + 5
    assert wait_until(lambda: all(n <= m for n, m in zip(census(), bounds, strict=True))), census()
    session = connection.transport.session
    assert session.sender.outbox.is_empty
    assert not session.commands
    connection.disconnect()
    names = [type(event).__name__ for event in lab.events]
    assert names.count("Interrupted") == names.count("Resumed") >= FAILOVERS
