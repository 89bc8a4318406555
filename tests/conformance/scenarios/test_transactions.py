"""Transactions: sends are replayed, lost deliveries and lost answers end in a rollback, told."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from understudy import errors
from understudy.testing import FaultProxy
from understudy.testing.scenarios import Client, Events, Inbox, Scene, Transaction, consuming
from understudy.testing.scenarios.port import Transacting

pytestmark = pytest.mark.integration


def transaction_of(client: Client) -> Transaction:
    assert isinstance(client, Transacting)
    return client.transaction()


def must_roll_back(scene: Scene, transaction: Transaction) -> None:
    with pytest.raises(errors.TransactionRolledBack) as caught:
        transaction.commit()
    assert isinstance(caught.value, scene.driver.library_errors)


def drop(scene: Scene, client: Client, member: FaultProxy) -> None:
    """Lose the link, and wait until the client, which is asked for something else, is back."""
    count = scene.events.count("Resumed")
    aside = f"{scene.queue}-aside"
    scene.place.declare(aside)
    member.reset()
    client.send(aside, "is anybody there?")
    assert scene.events.reaches("Resumed", count + 1)


@pytest.mark.scenario("F26", "F34")
@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_pending_acks_roll_back(scene: Scene, delay: float) -> None:
    """F26, F34: what was received in the transaction comes again, once; the next commit works."""
    scene.place.fill(scene.queue, "one", "two")
    member = scene.member()
    client = scene.open(member)
    transaction = transaction_of(client)
    member.delay(delay)
    assert {d.body for d in transaction.take(scene.queue, 2)} == {"one", "two"}
    drop(scene, client, member)
    must_roll_back(scene, transaction)
    again = transaction.take(scene.queue, 2)
    assert {(d.body, d.is_redelivered) for d in again} == {("one", True), ("two", True)}
    transaction.commit()
    client.close()
    assert scene.bodies() == []


@pytest.mark.scenario("F27")
@pytest.mark.parametrize(
    ("direction", "copies"), [pytest.param("down", 2, id="done"), pytest.param("up", 1, id="lost")]
)
def test_commit_in_doubt(scene: Scene, direction: Any, copies: int) -> None:
    """F27: the link breaks after or before the broker did it; never repeated unasked."""
    member = scene.member()
    client = scene.open(member)
    transaction = transaction_of(client)
    transaction.send(scene.queue, "one")
    transaction.send(scene.queue, "two")
    assert scene.is_quiet(member, seconds=0.5)
    member.cut_after(1, direction)
    with pytest.raises(errors.TransactionRolledBack, match="commit"):
        transaction.commit()
    transaction.send(scene.queue, "one")
    transaction.send(scene.queue, "two")
    transaction.commit()
    assert scene.bodies() == ["one", "two"] * copies


@pytest.mark.scenario("F30")
def test_sends_are_replayed(scene: Scene) -> None:
    """F30: sent before and after a failover, committed at the end: all there, once, in order."""
    member = scene.member()
    client = scene.open(member)
    transaction = transaction_of(client)
    for number in range(5):
        transaction.send(scene.queue, str(number))
    drop(scene, client, member)
    transaction.send(scene.queue, "5")
    assert scene.bodies() == []
    transaction.commit()
    assert scene.bodies() == [str(number) for number in range(6)]


@pytest.mark.scenario("F30")
def test_sends_are_not_replayed_when_off(scene: Scene) -> None:
    """F30: trackTransactionProducers=false: the commit is an error and nothing is in the queue."""
    member = scene.member()
    client = scene.open(member, trackTransactionProducers="false")
    transaction = transaction_of(client)
    transaction.send(scene.queue, "one")
    drop(scene, client, member)
    must_roll_back(scene, transaction)
    transaction.send(scene.queue, "two")
    transaction.commit()
    assert scene.bodies() == ["two"]


@pytest.mark.scenario("F31")
def test_redelivery_to_another_consumer(scene: Scene) -> None:
    """F31: the message goes to somebody else meanwhile: rolled back, counted once."""
    scene.place.fill(scene.queue, "one")
    member = scene.member()
    client = scene.open(member)
    transaction = transaction_of(client)
    (first,) = transaction.take(scene.queue, 1)
    assert first.body == "one"
    member.refuse()
    member.reset()
    other = scene.open(scene.member(), on_event=Events())
    inbox = Inbox()
    with consuming(other, scene.queue, inbox):
        assert inbox.reaches(1)
        member.heal()
        must_roll_back(scene, transaction)
        assert not inbox.reaches(2, 0.2)
    client.close()
    assert scene.bodies() == []


@pytest.mark.scenario("F32")
def test_redelivered_often_and_not_dead(scene: Scene) -> None:
    """F32: delivered in eight transactions that a failover ended: it is not given up."""
    scene.place.fill(scene.queue, "one")
    member = scene.member()
    client = scene.open(member)
    transaction = transaction_of(client)
    for _ in range(8):
        assert [d.body for d in transaction.take(scene.queue, 1)] == ["one"]
        drop(scene, client, member)
        must_roll_back(scene, transaction)
    assert [d.body for d in transaction.take(scene.queue, 1)] == ["one"]
    transaction.rollback()
    client.close()
    assert scene.bodies_come_back("one") == ["one"]


@pytest.mark.scenario("F33")
def test_durable_subscriber(scene: Scene) -> None:
    """F33: batches of 3, links lost between receive and commit: each message exactly once."""
    topic, queue = scene.place.subscribe(f"{scene.queue}-durable")
    sent = [f"{number:02}" for number in range(30)]
    scene.place.publish(topic, *sent)
    member = scene.member()
    client = scene.open(member)
    transaction = transaction_of(client)
    done: list[str] = []
    turn = 0
    while len(done) < len(sent):
        batch = [delivery.body for delivery in transaction.take(queue, 3)]
        turn += 1
        if turn % 3 == 0:
            drop(scene, client, member)
            must_roll_back(scene, transaction)
            continue
        # a delivery that was prefetched on the earlier link spoils the batch that it is in
        with contextlib.suppress(errors.TransactionRolledBack):
            transaction.commit()
            done += batch
    assert sorted(done) == sent
    client.close()
    assert scene.bodies(queue) == []
