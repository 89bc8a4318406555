"""A STOMP connection that is cut at any byte: of a message, its receipt, a transaction, an ack."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import pytest

from understudy.stomp import TransactionRolledBack
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.proxy_cuts import Direction, How
from understudy.testing.stomp_lab import Listener, StompLab

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

Broker = RabbitMQ | ActiveMQ

PREFETCH = {"prefetch-count": "1", "activemq.prefetchSize": "1"}


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def places(up: range, down: range) -> Iterator[tuple[Direction, int, How]]:
    """Where to cut: direction, bytes from now on, and how; in turns by FIN and RST."""
    hows: tuple[How, How] = "rst", "fin"
    for number, byte in enumerate(up):
        yield "up", byte, hows[number % 2]
    for number, byte in enumerate(down):
        yield "down", byte, hows[number % 2]


def bodies_in(lab: StompLab, broker: Broker, queue: str) -> collections.Counter[str]:
    connection = lab.connection(broker)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.send(queue, "end")
    connection.subscribe(queue, id="rest", ack="client-individual")
    listener.wait_for_bodies("end")
    connection.disconnect()
    return collections.Counter(body for body in listener.bodies if body != "end")


def test_a_send_that_is_cut_at_any_byte_arrives(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F21, F22: the message, and its receipt."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, initialReconnectDelay=0)
    queue = f"/queue/{unique}"
    sent = []
    for direction, byte, how in places(range(1, 190, 5), range(1, 46, 3)):
        cut = proxy.cut_after(byte, direction=direction, how=how)
        for body in (f"{direction}-{byte}", f"after-{direction}-{byte}"):
            connection.send(queue, body)
            sent.append(body)
        cut.cancel()
    connection.disconnect()
    found = bodies_in(lab, stomp_broker, queue)
    assert not set(sent) - set(found)


def test_a_transaction_that_is_cut_at_any_byte_is_done_or_said_to_be_undone(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F26, F27, F30."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, initialReconnectDelay=0)
    queue = f"/queue/{unique}"
    done: list[str] = []
    undone: list[str] = []
    doubtful: list[str] = []
    for direction, byte, how in places(range(1, 560, 25), range(1, 160, 11)):
        cut = proxy.cut_after(byte, direction=direction, how=how)
        name = f"{direction}-{byte}"
        try:
            transaction = connection.begin()
            for part in ("1", "2"):
                connection.send(queue, f"{name}/{part}", transaction=transaction)
            connection.commit(transaction)
            done.append(name)
        except TransactionRolledBack as exc:
            (doubtful if exc.is_in_doubt else undone).append(name)
        cut.cancel()
    connection.disconnect()
    found = bodies_in(lab, stomp_broker, queue)
    assert done
    assert all(found[f"{name}/{part}"] == 1 for name in done for part in "12")
    assert not any(found[f"{name}/{part}"] for name in undone for part in "12")
    assert all(found[f"{name}/1"] == found[f"{name}/2"] <= 1 for name in doubtful)


def test_an_acknowledgement_that_is_cut_at_any_byte_takes_no_other_message(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F19, F20: everything is delivered, and nothing is left."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connection(proxy, initialReconnectDelay=0)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual", headers=PREFETCH)
    sent = []
    for direction, byte, how in places(range(1, 330, 15), range(1, 400, 20)):
        cut = proxy.cut_after(byte, direction=direction, how=how)
        sent.append(f"{direction}-{byte}")
        connection.send(f"/queue/{unique}", sent[-1])
        cut.cancel()
    listener.wait_for_bodies(*sent)
    connection.send(f"/queue/{unique}", "last")  # behind every acknowledgement
    listener.wait_for_bodies("last")
    assert not listener.errors
