"""Consuming: it goes on by itself, nothing is lost, and an old acknowledgement touches nothing."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

from understudy.testing import wait_until
from understudy.testing.scenarios import Client, Delivery, Events, Inbox, Pulling, Scene, consuming

pytestmark = pytest.mark.integration


def numbers(count: int) -> list[str]:
    return [f"{number:04}" for number in range(count)]


@pytest.mark.scenario("F17")
def test_acks_and_closes_without_a_broker_end(scene: Scene) -> None:
    """F17: 50 acks, an unsubscribe and a close with nobody there and reconnect=false all end."""
    scene.place.fill(scene.queue, *numbers(50))
    member = scene.member()
    client = scene.open(member, reconnect="false")
    inbox = Inbox(hold=True)
    consumer = client.consume(scene.queue, inbox, prefetch=50)
    assert inbox.reaches(50)
    scene.cut_off(member)
    assert scene.events.reaches("GaveUp", 1)

    def leave() -> None:
        for delivery in inbox.deliveries:
            with contextlib.suppress(*scene.driver.library_errors):  # it may say that it is closed
                delivery.ack()
        consumer.stop()
        client.close()

    scene.background(leave).join()
    assert {*scene.bodies_come_back(*numbers(50))} == {*numbers(50)}


@pytest.mark.scenario("F18")
def test_acks_and_unsubscribing_offline_are_harmless(scene: Scene) -> None:
    """F18: done while disconnected they return at once, and nothing of it is sent later."""
    scene.place.fill(scene.queue, *numbers(5))
    member = scene.member()
    client = scene.open(member)
    inbox = Inbox(hold=True)
    consumer = client.consume(scene.queue, inbox)
    assert inbox.reaches(5)
    scene.cut_off(member)
    assert scene.events.reaches("Interrupted", 1)

    def settle_all() -> None:
        for delivery in inbox.deliveries:
            delivery.ack()

    scene.background(settle_all).join(10)
    scene.background(consumer.stop).join(30)
    member.heal()
    client.send(scene.queue, "works")
    scene.background(client.close).join(30)
    everything = {*numbers(5), "works"}
    assert {*scene.bodies_come_back(*everything)} == everything


@pytest.mark.scenario("F19")
def test_a_consumer_comes_back_once(scene: Scene) -> None:
    """F19: after three failovers there is one subscription, not four, and messages flow."""
    scene.place.fill(scene.queue, *numbers(12))
    member = scene.member()
    client = scene.open(member)
    inbox = Inbox(hold=True)
    with consuming(client, scene.queue, inbox, prefetch=2):
        for drop in range(4):
            assert inbox.reaches(2 * (drop + 1))
            assert not wait_until(lambda drop=drop: len(inbox.deliveries) > 2 * (drop + 1), 0.2)  # type: ignore[misc]
            if drop < 3:
                member.reset()
        acked = inbox.deliveries[-2:]
        for delivery in acked:
            delivery.ack()
        assert inbox.reaches(10)
    client.close()
    left = {*numbers(12)} - {delivery.body for delivery in acked}
    assert {*scene.bodies_come_back(*left)} == left


class ChainWorker:
    """Consumes a number and sends the next one: where a message is lost the chain ends."""

    def __init__(self, scene: Scene, queue: str) -> None:
        self.member = scene.member()
        self.events = Events()
        self.errors: list[Exception] = []
        self.last = -1
        self._queue = queue
        self._client: Client = scene.open(self.member, on_event=self.events)
        self._client.send(queue, "0")

    def handle(self, delivery: Delivery) -> None:
        try:
            if int(delivery.body) == self.last + 1:  # else a second copy, which the chain ignores
                self._client.send(self._queue, str(self.last + 2))
                self.last += 1
            delivery.ack()
        except Exception as exc:
            self.errors.append(exc)
            raise

    def work(self, drops: int) -> None:
        with consuming(self._client, self._queue, self.handle, prefetch=1):
            for drop in range(1, drops + 1):
                self._make_progress()
                self.member.reset()
                assert self.events.reaches("Resumed", drop)
            self._make_progress()
        assert self.events.count("Interrupted") == self.events.count("Resumed") == drops

    def _make_progress(self) -> None:
        """Three links of the chain: all of the worker's links are up again."""
        before = self.last
        assert wait_until(lambda: self.last >= before + 3, 60), (before, self.last, self.events)


@pytest.mark.scenario("F20", "F44")
def test_ten_workers_and_nine_drops(scene: Scene) -> None:
    """F20: no worker error, interrupted = resumed = drops, nothing lost."""
    queues = [f"{scene.queue}-{number}" for number in range(10)]
    for queue in queues:
        scene.place.declare(queue)
    workers = [ChainWorker(scene, queue) for queue in queues]
    running = [scene.background(partial(worker.work, 9)) for worker in workers]
    for each in running:
        each.join(180)
    assert not [error for worker in workers for error in worker.errors]


@pytest.mark.chaos
@pytest.mark.scenario("F21", "F28")
def test_messages_through_a_restart(scene: Scene) -> None:
    """F21, F28: SIGKILL of the broker under a stream of 2000: all arrive, in order."""
    client = scene.open(f"{scene.address(scene.place)}", timeout=180_000)
    consumer = scene.open(f"{scene.address(scene.place)}", timeout=180_000, on_event=Events())
    inbox = Inbox()
    sent = numbers(2000)

    def stream() -> None:
        for body in sent:
            client.send(scene.queue, body)

    with consuming(consumer, scene.queue, inbox, prefetch=50):
        scene.place.settle()
        sending = scene.background(stream)
        assert inbox.reaches(700, 120)
        scene.place.server.restart()
        sending.join(180)
        assert wait_until(lambda: len({*inbox.bodies}) == len(sent), 60)
    assert list(dict.fromkeys(inbox.bodies)) == sent
    assert scene.events.count("Interrupted") == scene.events.count("Resumed") == 1


@pytest.mark.scenario("F22")
def test_a_refused_subscription_is_not_made_again(scene: Scene) -> None:
    """F22: the caller gets the error; after a failover nobody subscribes there."""
    missing = f"{scene.queue}-missing"
    member = scene.member()
    client = scene.open(member)
    with pytest.raises(scene.driver.library_errors):
        client.subscribe_wrongly(missing)
    client.send(scene.queue, "works")
    scene.place.fill(missing, "untouched")
    resumed = scene.events.count("Resumed")
    member.reset()
    client.send(scene.queue, "works again")
    assert scene.events.reaches("Resumed", resumed + 1)
    assert scene.bodies() == ["works", "works again"]
    assert scene.bodies(missing) == ["untouched"]


@pytest.mark.scenario("F23")
def test_prefetch_after_a_failover(scene: Scene) -> None:
    """F23: three consumers get a full prefetch again; no message is lost to an old buffer."""
    scene.place.fill(scene.queue, *numbers(60))
    member = scene.member()
    clients = [scene.open(member, on_event=Events()) for _ in range(3)]
    inboxes = [Inbox(hold=True) for _ in clients]
    with contextlib.ExitStack() as stack:
        for client, inbox in zip(clients, inboxes, strict=True):
            stack.enter_context(consuming(client, scene.queue, inbox, prefetch=10))
        for full in (10, 20):
            assert all(inbox.reaches(full) for inbox in inboxes)
            assert not wait_until(lambda: any(len(i.deliveries) > full for i in inboxes), 0.3)  # noqa: B023
            if full == 10:
                member.reset()
        for inbox in inboxes:
            inbox.release(10)
        assert wait_until(lambda: len({b for i in inboxes for b in i.acked}) == 60)
    assert scene.bodies() == []


@pytest.mark.scenario("F24")
def test_a_blocked_pull_goes_on(scene: Scene) -> None:
    """F24: the broker goes and comes back while a receive waits: it receives."""
    member = scene.member()
    client = scene.open(member)
    assert isinstance(client, Pulling)
    pulling = scene.background(lambda: client.pull(scene.queue, 50))
    assert wait_until(lambda: member.connections >= 1)
    assert not pulling.is_over_within(0.2)
    scene.cut_off(member)
    member.heal()
    scene.place.fill(scene.queue, "one")
    pulling.join()
    assert getattr(pulling.result, "body", None) == "one"


@pytest.mark.scenario("F18", "F25")
def test_an_old_ack_acknowledges_nothing_new(scene: Scene) -> None:
    """F25: delivered and not acked comes again; the ack of the first delivery is void."""
    scene.place.fill(scene.queue, "one", "two")
    member = scene.member()
    client = scene.open(member)
    inbox = Inbox(hold=True)
    with consuming(client, scene.queue, inbox, prefetch=1):
        assert inbox.reaches(1)
        member.reset()
        assert inbox.reaches(2)
        old, new = inbox.deliveries
        assert (new.body, new.is_redelivered) == (old.body, True)
        old.ack()
        assert not inbox.reaches(3, 0.3)  # the broker still waits for the second delivery's ack
    client.close()
    assert {*scene.bodies_come_back("one", "two")} == {"one", "two"}


@pytest.mark.scenario("F29")
def test_a_lost_ack(scene: Scene) -> None:
    """F29: the link breaks in the middle of the ack: the message comes again, flagged."""
    scene.place.fill(scene.queue, "one")
    member = scene.member()
    client = scene.open(member)
    inbox = Inbox(hold=True)
    with consuming(client, scene.queue, inbox):
        assert inbox.reaches(1)
        cut = member.cut_after(1, "up")
        inbox.deliveries[0].ack()
        assert inbox.reaches(2)
        assert cut.fired == 1
        assert inbox.deliveries[1].is_redelivered
        inbox.deliveries[1].ack()
    client.close()
    assert scene.bodies() == []


@pytest.mark.scenario("F36")
def test_a_silent_broker_is_left_by_a_consumer(scene: Scene) -> None:
    """F36: an idle consumer notices by heartbeats that its broker has fallen silent."""
    silent, other = scene.member(), scene.member()
    client = scene.open(silent, other, heartbeat=1000)
    inbox = Inbox()
    with consuming(client, scene.queue, inbox):
        assert wait_until(lambda: silent.connections > 0)
        silent.black_hole()
        scene.place.fill(scene.queue, "one")
        assert inbox.reaches(1)
    assert scene.events.moves_to(other.port)
