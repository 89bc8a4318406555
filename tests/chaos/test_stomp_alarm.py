"""RabbitMQ's memory alarm, as a STOMP client meets it: the broker just stops reading."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from understudy.stomp import SendTimeout
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.alarm import memory_alarm, relieve
from understudy.testing.stomp_lab import PATIENCE, Listener, StompLab

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


@pytest.fixture
def alarmed(rabbit_a: RabbitMQ) -> Iterator[RabbitMQ]:
    """A broker that takes no messages, until the test is over."""
    with memory_alarm(rabbit_a):
        yield rabbit_a


def send_until_blocked(connection: object, queue: str) -> list[str]:
    """What was confirmed before: the broker blocks a connection with its first message."""
    sent: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        body = f"m{len(sent)}"
        try:
            connection.send(queue, body)  # type: ignore[attr-defined]
        except SendTimeout:
            return sent
        sent.append(body)
    pytest.fail("the broker takes everything")


def test_every_wait_ends_while_the_broker_is_blocked(
    lab: StompLab, alarmed: RabbitMQ, unique: str
) -> None:
    """F36: and when the alarm is over the same connection goes on, with nothing lost."""
    queue = f"/queue/{unique}"
    connection = lab.connection(alarmed, timeout=1500, heartbeat=1000)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(queue, id="1", ack="client-individual")
    sent = send_until_blocked(connection, queue)
    with pytest.raises(SendTimeout):
        connection.send(queue, b"x" * 3_000_000)  # more than fits into the network's buffers
    with pytest.raises(SendTimeout):
        connection.subscribe(f"{queue}-other", id="2")
    transaction = connection.begin()
    connection.send(queue, "in it", transaction=transaction)
    with pytest.raises(SendTimeout):
        connection.commit(transaction)
    ending = lab.connect(alarmed, timeout=1500)
    send_until_blocked(ending, f"{queue}-unheard")
    ending.disconnect()  # StompLab would say that it hangs
    relieve(alarmed)
    listener.wait_for_bodies(*sent, f"m{len(sent)}")  # the one in doubt was on its way
    connection.send(queue, "after")
    listener.wait_for_bodies("after")
    assert "interrupted" not in listener.calls
    assert not listener.errors
