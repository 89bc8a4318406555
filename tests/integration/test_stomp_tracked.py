"""trackMessages=true: sends return at once, and nothing that flush() promised is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import understudy.stomp
from understudy.core.events import MessageFailed
from understudy.testing import wait_until
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.stomp_lab import Listener, StompLab, stomp_address

pytestmark = pytest.mark.integration

Broker = RabbitMQ | ActiveMQ


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def collect(lab: StompLab, broker: Broker, queue: str, count: int) -> Listener:
    connection = lab.connect(broker)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.subscribe(queue, id="1", ack="client-individual")
    listener.wait_until(lambda it: len(set(it.bodies)) >= count, f"{count} messages")
    return listener


def test_flush_waits_until_all_are_confirmed_in_order(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    connection = lab.connect(stomp_broker, trackMessages="true")
    for number in range(500):
        connection.send(f"/queue/{unique}", str(number))
    assert connection.flush(60) is True
    frames = lab.take_all(stomp_broker, f"/queue/{unique}", 500)
    assert [frame.body for frame in frames] == [str(number) for number in range(500)]


def test_nothing_is_lost_and_order_is_kept_over_cuts(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F28, F36."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, trackMessages="true")
    for number in range(1000):
        connection.send(f"/queue/{unique}", str(number))
        if number % 250 == 100:
            proxy.reset()
    assert connection.flush(60)
    bodies = [int(body) for body in collect(lab, stomp_broker, f"/queue/{unique}", 1000).bodies]
    assert set(bodies) == set(range(1000))
    first_copies = list(dict.fromkeys(bodies))
    assert first_copies == sorted(first_copies)


def test_sends_return_while_there_is_no_broker_until_the_outbox_is_full(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, trackMessages="true", maxCacheSize=5000, timeout=1500)
    proxy.refuse()
    proxy.reset()
    for _ in range(5):
        connection.send(f"/queue/{unique}", b"x" * 800)
    with pytest.raises(understudy.stomp.SendTimeout) as caught:
        connection.send(f"/queue/{unique}", b"x" * 800)
    assert not caught.value.written
    assert connection.flush(0.1) is False
    proxy.heal()
    assert connection.flush(60) is True
    lab.take_all(stomp_broker, f"/queue/{unique}", 5)


def test_a_death_while_idle_is_noticed(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    first, second = lab.proxy(stomp_broker), lab.proxy(stomp_broker)
    connection = lab.connect(first, second, trackMessages="true")
    connection.send(f"/queue/{unique}", "x")
    assert connection.flush(30)
    first.fin()
    assert wait_until(lambda: second.connections == 1)


def test_a_refusal_is_raised_by_flush_and_told(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """The innocent before and after it arrive."""
    connection = lab.connect(rabbit_a, trackMessages="true")
    for number in range(20):
        connection.send(f"/queue/{unique}", str(number))
    connection.send(f"/exchange/{unique}/x", "bad", headers={"x-understudy-id": "the-bad-one"})
    for number in range(20, 40):
        connection.send(f"/queue/{unique}", str(number))
    with pytest.raises(understudy.stomp.Refused) as caught:
        connection.flush(60)
    assert caught.value.message_id == "the-bad-one"
    assert connection.flush(30) is True
    failed = [event for event in lab.events if isinstance(event, MessageFailed)]
    assert [event.message_id for event in failed] == ["the-bad-one"]
    collect(lab, rabbit_a, f"/queue/{unique}", 40)


def test_what_activemq_closes_over_without_a_word_is_raised_by_flush(
    lab: StompLab, activemq: ActiveMQ, unique: str
) -> None:
    """A receipt stands for a batch there: all of it is sent again until the bad one is found."""
    connection = lab.connect(activemq, trackMessages="true")
    for number in range(50):
        connection.send(f"/queue/{unique}", str(number))
    bad = {"x-understudy-id": "the-bad-one", "priority": "high"}
    connection.send(f"/queue/{unique}", "bad", headers=bad)
    for number in range(50, 100):
        connection.send(f"/queue/{unique}", str(number))
    with pytest.raises(understudy.stomp.Refused) as caught:
        connection.flush(60)
    assert caught.value.message_id == "the-bad-one"
    assert connection.flush(30) is True
    collect(lab, activemq, f"/queue/{unique}", 100)


def test_disconnect_flushes(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    connection = lab.connect(stomp_broker, trackMessages="true")
    for number in range(50):
        connection.send(f"/queue/{unique}", str(number))
    connection.disconnect()
    lab.take_all(stomp_broker, f"/queue/{unique}", 50)


def test_disconnect_never_waits_longer_than_close_timeout(
    lab: StompLab, stomp_broker: Broker, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left is told, and sent by the next connect() of the same connection."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, trackMessages="true", closeTimeout=300, timeout=60000)
    proxy.refuse()
    proxy.reset()
    connection.send(f"/queue/{unique}", "left", headers={"x-understudy-id": "left-1"})
    begin = time.monotonic()
    connection.disconnect()
    assert time.monotonic() - begin < 20
    assert "left-1" in caplog.text
    proxy.heal()
    connection.connect(wait=True)
    assert connection.flush(30)
    lab.take_all(stomp_broker, f"/queue/{unique}", 1)


def test_leaving_the_interpreter_flushes(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    host, port = stomp_address(stomp_broker)
    code = f"""
import understudy.stomp
connection = understudy.stomp.Connection(
    "failover:(stomp://guest:guest@{host}:{port})?trackMessages=true"
)
connection.connect(wait=True)
for number in range(30):
    connection.send("/queue/{unique}", str(number))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    lab.take_all(stomp_broker, f"/queue/{unique}", 30)
