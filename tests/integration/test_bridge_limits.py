"""Targets that take nothing for long, and brokers that count what a bridge gives back."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from amqp import Channel

from understudy.core.backoff import Backoff
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.alarm import memory_alarm
from understudy.testing.frames import BASIC_PUBLISH
from understudyd.bridge.content import AmqpContent
from understudyd.bridge.mapping import Message
from understudyd.bridge.parking import HEAD
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.wire.amqp import FRAME_MIN
from understudyd.bridge.wire.properties import build, get_header, set_header
from understudyd.bridge.worn import most_of
from understudyd.testing.bridged import BridgeProcess, RunningLink, until
from understudyd.testing.sides import AmqpSide

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]
LIMIT = 20  # deliveries in vain, as RabbitMQ has it from 4.0 on
LAST = 3000  # ms that a broker waits for an acknowledgement; it looks once in a second
SHORT = LinkSettings(hold_time=1.0)


@pytest.fixture
def impatient(rabbit_a: RabbitMQ) -> Iterator[RabbitMQ]:
    """It closes a channel that acknowledges nothing for `LAST`."""
    _set(rabbit_a, consumer_timeout=LAST, channel_tick_interval=1000)
    before = _timeouts(rabbit_a)
    yield rabbit_a
    assert _timeouts(rabbit_a) == before, "it has lost its patience"
    _set(rabbit_a, consumer_timeout=1_800_000, channel_tick_interval=60_000)


def _timeouts(node: RabbitMQ) -> int:
    told = node.log_file.read_text(encoding="utf-8", errors="replace")
    return told.count("has timed out waiting for")


def _set(node: RabbitMQ, **values: int) -> None:
    told = ", ".join(
        f"application:set_env(rabbit, {name}, {value})" for name, value in values.items()
    )
    node.ctl("eval", f"{told}.")


class Counting:
    """A quorum queue with a delivery limit, and a queue for what it puts away."""

    def __init__(self, node: RabbitMQ, name: str, limit: int = LIMIT) -> None:
        self.node, self.name, self.dead = node, name, f"{name}.dead"
        self.side = AmqpSide(node)
        self.side.make(self.dead)
        routed = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.dead}
        self.side.make(name, {"x-queue-type": "quorum", "x-delivery-limit": limit, **routed})

    def bodies(self) -> list[bytes]:
        return [content.body for content in self.side.take(self.name)]

    def remove(self) -> None:
        self.side.remove(self.name)
        self.side.remove(self.dead)


@pytest.fixture
def counting(rabbit_a: RabbitMQ, unique: str) -> Iterator[Counting]:
    made = Counting(rabbit_a, unique)
    yield made
    made.remove()


@contextmanager
def none_put_away(counting: Counting, target: RabbitMQ) -> Iterator[list[bytes]]:
    """What is in the queue, which is at the target too; it is all to be moved meanwhile."""
    there = AmqpSide(target)
    there.make(counting.name)
    sent = [b"%d" % number for number in range(100)]
    counting.side.fill(counting.name, sent)
    yield sent
    assert counting.bodies() == []
    assert counting.node.queue_depth(counting.dead) == 0
    there.remove(counting.name)


def arrived(node: RabbitMQ, queue: str) -> list[bytes]:
    return [content.body for content in AmqpSide(node).take(queue)]


def watch(link: RunningLink, seconds: float) -> set[str]:
    """The states that it is in."""
    seen, deadline = set(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen.add(link.state)
        time.sleep(0.05)
    return seen


def test_a_full_queue_makes_no_broker_lose_its_patience(
    impatient: RabbitMQ, rabbit_b: RabbitMQ, unique: str, counting: Counting
) -> None:
    """J05, scenarios 31 and 33: it is full for several times as long as the source waits."""
    there = AmqpSide(rabbit_b)
    there.make(unique, {"x-max-length": 5, "x-overflow": "reject-publish"})
    sent = [b"%d" % number for number in range(30)]
    counting.side.fill(unique, sent)
    with RunningLink(impatient.uri, rabbit_b.uri, unique, settings=SHORT) as link:
        link.await_state("retrying")
        assert "waiting-room" in watch(link, 5.0)
        until(lambda: link.state == "waiting-room", "it waits")
        assert not link.in_flight
        assert "refused 1 message" in link.reason
        found: list[bytes] = []

        def all_came() -> bool:
            found.extend(arrived(rabbit_b, unique))
            return len(found) >= len(sent)

        until(all_came, "all have arrived")
        assert link.parked == 0
    assert sorted(found, key=int) == sent
    assert counting.bodies() == []
    assert impatient.queue_depth(counting.dead) == 0
    there.remove(unique)


@pytest.mark.slow
def test_a_full_queue_uses_up_no_low_delivery_limit(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """The bridge is told of it, since no broker tells."""
    counting = Counting(rabbit_a, unique, 1)
    there = AmqpSide(rabbit_b)
    there.make(unique, {"x-max-length": 1, "x-overflow": "reject-publish"})
    there.fill(unique, [b"full"])
    sent = [b"%d" % number for number in range(10)]
    counting.side.fill(unique, sent)
    given: dict[str, Any] = {"settings": LinkSettings(hold_time=0.1), "delivery_limit": 1}
    with RunningLink(rabbit_a.uri, rabbit_b.uri, unique, **given) as link:
        until(lambda: link.went_back > 1, "one was given back")
    assert set(counting.bodies()) == set(sent)
    assert rabbit_a.queue_depth(counting.dead) == 0
    there.remove(unique)
    counting.remove()


@pytest.mark.slow
def test_a_memory_alarm_makes_no_broker_lose_its_patience(
    impatient: RabbitMQ, rabbit_b: RabbitMQ, unique: str, counting: Counting
) -> None:
    """Scenarios 24 and 33."""
    there = AmqpSide(rabbit_b)
    there.make(unique)
    sent = [b"%d" % number for number in range(30)]
    with RunningLink(impatient.uri, rabbit_b.uri, unique, settings=SHORT) as link:
        link.await_state("running")
        with memory_alarm(rabbit_b):
            counting.side.fill(unique, sent)
            link.await_state("blocked")
            assert watch(link, 5.0) == {"blocked"}
            assert not link.in_flight
            assert impatient.queue_depth(unique) == len(sent), "all are there for others"
        link.await_forwarded(len(sent))
    found = arrived(rabbit_b, unique)
    assert set(found) == set(sent)
    assert len(found) <= len(sent) + 1, "the one that was with the target when it was blocked"
    assert impatient.queue_depth(counting.dead) == 0
    there.remove(unique)


def through(node: RabbitMQ, proxy: FaultProxy) -> str:
    return node.uri.replace(f"{node.host}:{node.port}", f"{proxy.host}:{proxy.port}")


@pytest.mark.slow
def test_what_outgrows_a_small_frame_is_parked_and_the_others_go_on(
    launch: Callable[[RabbitMQ], RabbitMQ], rabbit_a: RabbitMQ, unique: str
) -> None:
    """By the bridge's own headers: near the limit at the target, and in its source's parking."""
    small = launch(RabbitMQ(settings={"frame_max": str(FRAME_MIN)}))
    room = FRAME_MIN - HEAD
    parking = f"understudy.parking.{unique}"

    def fails(message: Message) -> None:
        if message.body != b"plain":
            raise ValueError("not this one")

    for source, target, changes, is_parked in [
        (rabbit_a, small, None, True),
        (small, rabbit_a, None, False),
        (small, rabbit_a, fails, True),
    ]:
        here, there = AmqpSide(source), AmqpSide(target)
        here.make(unique)
        there.make(unique)
        full = AmqpContent(_padded(room), b"full")
        here.put(unique, full, AmqpContent(_padded(100), b"plain"))
        with RunningLink(source.uri, target.uri, unique, name=unique, transformer=changes) as link:
            until(lambda: link.forwarded + link.parked == 2, "both are settled")
            assert (link.parked, link.glance.last_error) == (int(is_parked), "")
        arrived_there = [content.body for content in there.take(unique)]
        assert arrived_there == ([b"plain"] if is_parked else [b"full", b"plain"])
        if is_parked:
            (parked,) = here.take(parking)
            assert parked.body == b"full"
            assert get_header(parked.properties, "pad") == get_header(full.properties, "pad")
            here.remove(parking)
        for side in (here, there):
            side.remove(unique)


def _padded(size: int) -> bytes:
    """Properties of so many bytes."""
    raw = set_header(build({"delivery_mode": 2}), "pad", "")
    return set_header(raw, "pad", "x" * (size - len(raw)))


@pytest.mark.slow
def test_outages_of_a_target_use_up_no_delivery_limit(
    rabbit_b: RabbitMQ, unique: str, counting: Counting
) -> None:
    """Scenario 31: in each of them all is given back, and nothing gets on."""
    settings = LinkSettings(hold_time=0.01, backoff=Backoff(20.0, 50.0))
    with (
        none_put_away(counting, rabbit_b) as sent,
        FaultProxy(rabbit_b.host, rabbit_b.port) as proxy,
    ):
        cut = proxy.cut_on(BASIC_PUBLISH, direction="up", times=None)
        target = through(rabbit_b, proxy)
        with RunningLink(counting.node.uri, target, unique, settings=settings) as link:
            until(lambda: link.went_back > LIMIT // most_of(LIMIT), "more than the limit")
            assert cut.fired > LIMIT
            cut.cancel()
            link.await_forwarded(len(sent))
        assert set(arrived(rabbit_b, unique)) == set(sent)


@pytest.mark.slow
@pytest.mark.chaos
def test_deaths_of_the_bridge_use_up_no_delivery_limit(
    tmp_path: Path, rabbit_b: RabbitMQ, unique: str, counting: Counting
) -> None:
    """Scenario 31: it is killed over its first message, again and again."""
    with (
        none_put_away(counting, rabbit_b) as sent,
        FaultProxy(rabbit_b.host, rabbit_b.port) as proxy,
    ):
        target = through(rabbit_b, proxy)
        with BridgeProcess(tmp_path, counting.node.uri, target, unique) as bridge:
            for _ in range(LIMIT + 5):
                cut = proxy.cut_on(BASIC_PUBLISH, direction="up", then=bridge.kill)
                assert cut.wait(60)
                bridge.start()
            found: list[bytes] = []

            def all_came() -> bool:
                found.extend(arrived(rabbit_b, unique))
                return set(found) == set(sent)

            until(all_came, "all have arrived")
            assert bridge.stop() == 0


@pytest.mark.slow
def test_a_process_of_which_all_links_have_given_up_ends(
    tmp_path: Path, rabbit_a: RabbitMQ, unique: str
) -> None:
    """J06."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        nobody = f"amqp://127.0.0.1:{port.getsockname()[1]}"
    limit = "startupMaxReconnectAttempts=3&maxReconnectDelay=50"
    target = f"failover:({nobody})?{limit}"
    with BridgeProcess(tmp_path, rabbit_a.uri, target, unique) as bridge:
        assert bridge.process is not None
        assert bridge.process.wait(60) == 3
    assert "is given-up: target: " in bridge.log
    assert "gave up after 3 passes" in bridge.log
