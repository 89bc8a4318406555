"""Consuming with the STOMP adapter on real brokers: restored, acknowledged once, never stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import stomp

import understudy.stomp
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.stomp_lab import Listener, StompLab

pytestmark = pytest.mark.integration

Broker = RabbitMQ | ActiveMQ


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def fill(lab: StompLab, broker: Broker, queue: str, count: int) -> None:
    connection = lab.connect(broker, trackMessages="true")
    for number in range(count):
        connection.send(queue, str(number))
    assert connection.flush(60)
    connection.disconnect()


def prefetch(count: int) -> dict[str, str]:
    return {"prefetch-count": str(count), "activemq.prefetchSize": str(count)}


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_subscription_is_restored_with_its_headers(
    lab: StompLab, stomp_broker: Broker, unique: str, version: str
) -> None:
    """F19: exists once, same prefetch, messages flow; on_disconnected is not called."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connection(proxy, version=version)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual", headers=prefetch(10))
    sender = lab.connect(stomp_broker)
    sender.send(f"/queue/{unique}", "one")
    listener.wait_for_bodies("one")
    for turn in range(3):
        proxy.reset()
        sender.send(f"/queue/{unique}", f"turn {turn}")
        listener.wait_for_bodies(f"turn {turn}")
    listener.wait_until(lambda it: it.calls.count("resumed") == 3, "three times on_resumed")
    assert listener.calls.count("interrupted") == 3
    assert "disconnected" not in listener.calls
    assert listener.calls.count("connected") == 1


def test_an_unsubscribed_destination_stays_unsubscribed(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F18: also when it was unsubscribed while there was no connection."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connection(proxy)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}-1", id="1")
    connection.subscribe(f"/queue/{unique}-2", id="2")
    connection.unsubscribe("1")
    proxy.refuse()
    proxy.reset()
    listener.wait_until(lambda it: "interrupted" in it.calls, "on_interrupted")
    connection.unsubscribe("2")
    proxy.heal()
    connection.send(f"/queue/{unique}-1", "stays")
    connection.send(f"/queue/{unique}-2", "stays")
    for number in (1, 2):
        lab.take_all(stomp_broker, f"/queue/{unique}-{number}", 1)
    assert not listener.frames


def test_an_acknowledgement_of_an_earlier_connection_is_dropped_and_counted(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F25: it never acknowledges another message."""
    proxy = lab.proxy(stomp_broker)
    fill(lab, stomp_broker, f"/queue/{unique}", 3)
    connection = lab.connection(proxy)
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual", headers=prefetch(3))
    listener.wait_until(lambda it: len(it.frames) == 3, "3 messages")
    old = [frame.headers["ack"] for frame in listener.frames]
    proxy.reset()
    listener.wait_until(lambda it: len(it.frames) == 6, "3 messages again")
    for ack_id in old:
        connection.ack(ack_id)
    assert connection.stale_acks == 3
    connection.disconnect()
    lab.take_all(stomp_broker, f"/queue/{unique}", 3)


def test_a_second_acknowledgement_does_no_harm(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """RabbitMQ alone would close the connection over it."""
    fill(lab, stomp_broker, f"/queue/{unique}", 2)
    connection = lab.connection(stomp_broker)
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual", headers=prefetch(1))
    listener.wait_until(lambda it: len(it.frames) == 1, "a message")
    for _ in range(2):
        connection.ack(listener.frames[0].headers["ack"])
    listener.wait_until(lambda it: len(it.frames) == 2, "the next message")
    assert connection.stale_acks == 1
    assert not listener.errors


def test_client_mode_acknowledges_what_came_before_of_the_same_subscription_only(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """On RabbitMQ alone it would be everything of the whole connection: a silent loss."""
    queues = [f"/queue/{unique}-{name}" for name in "ab"]
    for queue in queues:
        fill(lab, stomp_broker, queue, 3)
    connection = lab.connection(stomp_broker)
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect(wait=True)
    for name, queue in zip("ab", queues, strict=True):
        connection.subscribe(queue, id=name, ack="client")
    listener.wait_until(lambda it: len(it.frames) == 6, "6 messages")
    last = [f for f in listener.frames if f.headers["subscription"] == "b"][-1]
    connection.ack(last.headers["ack"])
    connection.disconnect()
    lab.take_all(stomp_broker, queues[0], 3)
    check = lab.connect(stomp_broker)
    empty = Listener()
    check.set_listener("", empty)
    check.subscribe(queues[1], id="1")
    time.sleep(0.5)
    assert not empty.frames


def test_a_callback_may_send_subscribe_and_commit(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """The thread that runs it is not the one that reads the answers."""
    connection = lab.connection(stomp_broker)
    done = threading.Event()

    class Worker(stomp.ConnectionListener):
        def on_message(self, frame: Any) -> None:
            if frame.body == "end":
                done.set()
                return
            connection.send(f"/queue/{unique}", "plain")
            name = connection.begin()
            connection.send(f"/queue/{unique}-out", "end", transaction=name)
            connection.ack(frame.headers["ack"], transaction=name)
            connection.subscribe(f"/queue/{unique}-out", id="out")
            connection.commit(name)

    connection.set_listener("", Worker())
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual", headers=prefetch(1))
    connection.send(f"/queue/{unique}", "begin")
    assert done.wait(60)


def test_a_slow_listener_stops_no_heartbeats(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    connection = lab.connection(stomp_broker, heartbeat=1000)
    entered, leave = threading.Event(), threading.Event()

    class Slow(stomp.ConnectionListener):
        def on_message(self, frame: Any) -> None:
            entered.set()
            leave.wait(90)

    connection.set_listener("", Slow())
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1")
    connection.send(f"/queue/{unique}", "x")
    assert entered.wait(60)
    time.sleep(4)  # four heartbeats: who sends or reads none would be left by now
    connection.send(f"/queue/{unique}", "y")
    leave.set()
    assert [type(event).__name__ for event in lab.events] == ["Connected"]


def test_a_listener_that_does_not_keep_up_slows_the_broker_down(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """The queue before the listeners is bounded; a send in a callback still gets its receipt."""
    queue = f"/queue/{unique}"
    sender = lab.connect(stomp_broker, trackMessages="true")
    for _ in range(3000):
        sender.send(queue, b"x" * 10_000)
    assert sender.flush(60)
    connection = lab.connection(stomp_broker)
    entered, leave, seen = threading.Event(), threading.Event(), []

    class Slow(stomp.ConnectionListener):
        def on_message(self, frame: Any) -> None:
            seen.append(frame)
            if not entered.is_set():
                entered.set()
                leave.wait(60)
                connection.send(f"{queue}-out", "in a callback")

    connection.set_listener("", Slow())
    connection.connect(wait=True)
    connection.subscribe(queue, id="1", headers={"activemq.prefetchSize": "3000"})
    assert entered.wait(60)
    dispatcher = connection.transport.session.dispatcher
    time.sleep(2)  # as much as will come has come
    assert dispatcher.bytes < 20_000_000
    leave.set()
    deadline = time.monotonic() + 60
    while len(seen) < 3000 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(seen) == 3000


def test_a_listener_that_raises_stops_nobody(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    connection = lab.connection(stomp_broker)
    good = Listener()

    class Bad(stomp.ConnectionListener):
        def on_message(self, frame: Any) -> None:
            raise RuntimeError("mine")

    connection.set_listener("a", Bad())
    connection.set_listener("b", good)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1")
    connection.send(f"/queue/{unique}", "x")
    connection.send(f"/queue/{unique}", "y")
    good.wait_for_bodies("x", "y")


def test_a_refused_subscription_is_the_callers_error_and_not_repeated(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F22."""
    connection = lab.connect(rabbit_a)
    listener = Listener()
    connection.set_listener("", listener)
    with pytest.raises(understudy.stomp.CommandRefused, match="no queue"):
        connection.subscribe(f"/amq/queue/{unique}", id="1")
    connection.send(f"/queue/{unique}", "fine")
    listener.wait_until(lambda it: it.errors, "on_error")
    assert len(listener.errors) == 1


def test_asking_again_for_the_same_subscription_changes_nothing(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """What programs do that reconnect by themselves."""
    connection = lab.connect(stomp_broker)
    listener = Listener()
    connection.set_listener("", listener)
    for _ in range(2):
        connection.connect("guest", "guest", wait=True)
        connection.subscribe(f"/queue/{unique}", id="1", ack="auto")
    with pytest.raises(understudy.stomp.CommandRefused, match="exists already"):
        connection.subscribe(f"/queue/{unique}-other", id="1", ack="auto")
    connection.send(f"/queue/{unique}", "once")
    listener.wait_for_bodies("once")
    assert listener.bodies == ["once"]


def test_a_durable_subscription_keeps_what_came_meanwhile(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    headers = {
        **{"durable": "true", "auto-delete": "false"},  # RabbitMQ
        "activemq.subscriptionName": unique,
    }
    proxy = lab.proxy(stomp_broker)
    connection = lab.connection(proxy)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True, headers={"client-id": unique})
    connection.subscribe(f"/topic/{unique}", id=unique, ack="client-individual", headers=headers)
    proxy.refuse()
    proxy.reset()
    listener.wait_until(lambda it: "interrupted" in it.calls, "on_interrupted")
    sender = lab.connect(stomp_broker)
    sender.send(f"/topic/{unique}", "meanwhile")
    proxy.heal()
    listener.wait_for_bodies("meanwhile")


def test_nack(lab: StompLab, rabbit_a: RabbitMQ, unique: str) -> None:
    """RabbitMQ puts it back; the second delivery is acknowledged."""
    connection = lab.connect(rabbit_a)
    listener = Listener()
    connection.set_listener("", listener)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    connection.send(f"/queue/{unique}", "x")
    listener.wait_until(lambda it: len(it.frames) == 1, "the message")
    connection.nack(listener.frames[0].headers["ack"])
    listener.wait_until(lambda it: len(it.frames) == 2, "the message again")
    assert listener.frames[1].headers["redelivered"] == "true"
    connection.ack(listener.frames[1].headers["ack"], receipt="done")
    listener.wait_until(lambda it: it.receipts == ["done"], "the receipt of the ack")
