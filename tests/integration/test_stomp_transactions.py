"""Transactions of the STOMP adapter on real brokers: replayed, or rolled back and said so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import stomp

import understudy.stomp
from understudy.stomp import TransactionRolledBack
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.stomp_lab import Listener, StompLab
from understudy.testing.stomp_peer import StompPeer, Talk, frames, serve

pytestmark = pytest.mark.integration

Broker = RabbitMQ | ActiveMQ


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def test_commit_and_abort(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    connection = lab.connect(stomp_broker)
    name = connection.begin()
    connection.send(f"/queue/{unique}", "aborted", transaction=name)
    connection.abort(name)
    name = connection.begin()
    for number in range(3):
        connection.send(f"/queue/{unique}", str(number), transaction=name)
    connection.commit(name)
    assert [f.body for f in lab.take_all(stomp_broker, f"/queue/{unique}", 3)] == ["0", "1", "2"]


def test_sends_are_replayed_after_a_failover(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F30."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy)
    name = connection.begin()
    connection.send(f"/queue/{unique}", "0", transaction=name)
    connection.send(f"/queue/{unique}", "1", transaction=name)
    proxy.reset()
    lab.wait_for_event("Interrupted")  # a commit that is written before would be in doubt
    connection.send(f"/queue/{unique}", "2", transaction=name)
    connection.commit(name)
    assert [f.body for f in lab.take_all(stomp_broker, f"/queue/{unique}", 3)] == ["0", "1", "2"]


def test_without_tracking_of_transactions_the_commit_says_so(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F30, switched off."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connection(proxy, trackTransactionProducers="false")
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect(wait=True)
    name = connection.begin()
    connection.send(f"/queue/{unique}", "0", transaction=name)
    proxy.reset()
    listener.wait_until(lambda it: "resumed" in it.calls, "on_resumed")
    with pytest.raises(TransactionRolledBack) as caught:
        connection.commit(name)
    assert isinstance(caught.value, stomp.exception.StompException)
    connection.send(f"/queue/{unique}", "only")
    assert [f.body for f in lab.take_all(stomp_broker, f"/queue/{unique}", 1)] == ["only"]


def test_acknowledgements_in_it_do_not_survive_a_failover(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F26: rolled back, delivered again, and the next transaction is fine."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connection(proxy)
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.send(f"/queue/{unique}", "in")
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    for turn in (1, 2):
        listener.wait_until(lambda it, turn=turn: len(it.frames) == turn, "a delivery")
        name = connection.begin()
        connection.ack(listener.frames[-1].headers["ack"], transaction=name)
        connection.send(f"/queue/{unique}-out", "out", transaction=name)
        if turn == 1:
            proxy.reset()
            listener.wait_until(lambda it: "interrupted" in it.calls, "on_interrupted")
            with pytest.raises(TransactionRolledBack, match="acknowledgements"):
                connection.commit(name)
        else:
            connection.commit(name)
    connection.disconnect()
    lab.take_all(stomp_broker, f"/queue/{unique}-out", 1)
    check = lab.connect(stomp_broker)
    empty = Listener()
    check.set_listener("", empty)
    check.subscribe(f"/queue/{unique}", id="1")
    time.sleep(0.5)
    assert not empty.frames


def test_an_aborted_acknowledgement_can_be_made_again(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    connection = lab.connect(rabbit_a)
    listener = Listener()
    connection.set_listener("", listener)
    connection.send(f"/queue/{unique}", "x")
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    listener.wait_until(lambda it: it.frames, "the message")
    ack_id = listener.frames[0].headers["ack"]
    name = connection.begin()
    connection.ack(ack_id, transaction=name)
    connection.abort(name)
    connection.ack(ack_id, receipt="acked")
    listener.wait_until(lambda it: it.receipts == ["acked"], "the receipt")
    assert connection.stale_acks == 0


def test_a_commit_in_doubt_is_rolled_back_and_says_so(lab: StompLab) -> None:
    """F27: the broker died after it got the commit."""

    def die_at_commit(talk: Talk) -> None:
        talk.log_in()
        for command, headers, _ in frames(talk):
            if command == "COMMIT":
                return
            talk.receipt(headers)

    with StompPeer(die_at_commit) as first, StompPeer(serve) as second:
        connection = lab.connect(first, second)
        name = connection.begin()
        own = {"x-understudy-id": "mine"}
        connection.send("/queue/q", "x", headers=own, transaction=name)
        with pytest.raises(TransactionRolledBack, match="in doubt") as caught:
            connection.commit(name)
        assert caught.value.is_in_doubt
        assert caught.value.message_ids == ("mine",)
        connection.send("/queue/q", "y")
        connection.disconnect()


def test_a_commit_ends_at_the_deadline(lab: StompLab) -> None:
    def never_commit(talk: Talk) -> None:
        talk.log_in()
        for command, headers, _ in frames(talk):
            if command != "COMMIT":
                talk.receipt(headers)

    with StompPeer(never_commit) as peer:
        connection = lab.connect(peer, timeout=1500)
        name = connection.begin()
        connection.send("/queue/q", "x", transaction=name)
        with pytest.raises(understudy.stomp.SendTimeout) as caught:
            connection.commit(name)
        assert caught.value.written
        connection.disconnect()


def test_rabbitmq_commits_only_what_it_confirmed(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """Its receipt for COMMIT comes before those of the messages: a refused one must be told."""
    connection = lab.connect(rabbit_a)
    name = connection.begin()
    connection.send(f"/exchange/{unique}/x", "nowhere", transaction=name)
    with pytest.raises((understudy.stomp.CommandRefused, TransactionRolledBack)):
        connection.commit(name)
    connection.send(f"/queue/{unique}", "fine")


def test_a_transaction_that_was_never_begun(lab: StompLab, rabbit_a: RabbitMQ) -> None:
    connection = lab.connect(rabbit_a)
    for call in (connection.commit, connection.abort):
        with pytest.raises(understudy.stomp.CommandRefused, match="no transaction"):
            call("unknown")
    with pytest.raises(understudy.stomp.CommandRefused, match="no transaction"):
        connection.send("/queue/x", "x", transaction="unknown")


def test_transactions_of_many_threads(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy)
    rolled_back: list[str] = []
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        for number in range(10):
            body = f"{worker}-{number}"
            while True:
                try:
                    name = connection.begin()
                    connection.send(f"/queue/{unique}", body, transaction=name)
                    connection.commit(name)
                    break
                except TransactionRolledBack:
                    rolled_back.append(body)
                except BaseException as exc:
                    failures.append(exc)
                    return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.1)
        proxy.reset()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    taker = lab.connect(stomp_broker)
    listener = Listener(taker)
    taker.set_listener("", listener)
    taker.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    listener.wait_for_bodies(*(f"{w}-{n}" for w in range(3) for n in range(10)))
    doubled = [body for body in set(listener.bodies) if listener.bodies.count(body) > 1]
    assert set(doubled) <= set(rolled_back)
