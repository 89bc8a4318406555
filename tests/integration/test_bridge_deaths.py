"""kill -9 of the source, the target and the bridge: nothing lost, and no more doubled than the
window holds (scenarios 14 to 17)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import amqp
import pytest
from amqp import Channel

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_ACK, BASIC_DELIVER, BASIC_PUBLISH, MethodId
from understudyd.testing.bridged import BridgeProcess, until

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

Plain = Callable[[RabbitMQ], Channel]
WINDOW = 200
COUNT = 4_000
BODIES = [b"%06d" % number + b"x" * 500 for number in range(COUNT)]


@pytest.fixture
def queue(plain: Plain, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str) -> str:
    """On both nodes, full on the first."""
    for node in rabbits:
        plain(node).queue_declare(unique, durable=True, auto_delete=False)
        node.settle()
    channel = plain(rabbits[0])
    channel.confirm_select()
    acked = [0]
    channel.events["basic_ack"].add(lambda tag, _: acked.append(tag))
    for body in BODIES:
        channel._basic_publish(amqp.Message(body, delivery_mode=2), routing_key=unique)
    until(lambda: channel.connection.drain_events(timeout=30) or max(acked) == COUNT, "confirms")
    return unique


def depth(node: RabbitMQ, queue: str) -> int:
    try:
        return node.queue_depth(queue)
    except OSError:
        return -1


def check(plain: Plain, nodes: tuple[RabbitMQ, RabbitMQ], queue: str, doubled: int) -> None:
    """Wait until all is at the target, then count; so many more may be there."""
    source, target = nodes
    until(lambda: depth(source, queue) == 0, "the source is empty", 90)
    found: Counter[bytes] = Counter()
    channel = plain(target)

    def take() -> bool:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            body = message.body
            found[body.encode() if isinstance(body, str) else bytes(body)] += 1
        return len(found) == COUNT

    until(take, f"{COUNT} different messages at the target (lost: {COUNT - len(found)})", 90)
    assert set(found) == set(BODIES)
    assert sum(found.values()) - COUNT <= doubled


def begin(folder: Path, source: str, target: str, queue: str) -> BridgeProcess:
    return BridgeProcess(folder, source, target, queue, prefetch_size=WINDOW)


def await_some(node: RabbitMQ, queue: str, count: int = 300) -> None:
    until(lambda: depth(node, queue) >= count, f"{count} messages have arrived")


def test_the_bridge_is_killed_again_and_again(
    tmp_path: Path, plain: Plain, rabbits: tuple[RabbitMQ, RabbitMQ], queue: str
) -> None:
    rng = random.Random(3)
    kills = 0
    with begin(tmp_path, rabbits[0].uri, rabbits[1].uri, queue) as bridge:
        await_some(rabbits[1], queue, 50)
        while kills < 5 and depth(rabbits[0], queue) > 0:
            bridge.kill()
            kills += 1
            bridge.start()
            await_some(rabbits[1], queue, depth(rabbits[1], queue) + 30)
            time.sleep(rng.uniform(0.0, 0.1))
        check(plain, rabbits, queue, WINDOW * kills)
        assert bridge.stop() == 0


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_broker_is_killed_and_comes_back(
    tmp_path: Path, plain: Plain, rabbits: tuple[RabbitMQ, RabbitMQ], queue: str, end: str
) -> None:
    victim = rabbits[0] if end == "source" else rabbits[1]
    with begin(tmp_path, rabbits[0].uri, rabbits[1].uri, queue) as bridge:
        await_some(rabbits[1], queue)
        victim.kill()
        victim.start()
        # RabbitMQ writes acknowledgements down in its own time: after a SIGKILL it delivers again
        # what was settled long before, whoever the consumer is.
        check(plain, rabbits, queue, COUNT if end == "source" else WINDOW)
        assert bridge.stop() == 0
    assert "guest:guest" not in bridge.log


@pytest.mark.parametrize(
    ("end", "method", "direction"),
    [
        ("source", BASIC_DELIVER, "down"),  # as it is delivered
        ("target", BASIC_PUBLISH, "up"),  # as it is published
        ("target", BASIC_ACK, "down"),  # between publish and confirm
        ("source", BASIC_ACK, "up"),  # between confirm and acknowledgement
    ],
)
def test_the_bridge_is_killed_at_each_point(
    tmp_path: Path,
    plain: Plain,
    rabbits: tuple[RabbitMQ, RabbitMQ],
    queue: str,
    end: str,
    method: MethodId,
    direction: str,
) -> None:
    node = rabbits[0] if end == "source" else rabbits[1]
    uris = {"source": rabbits[0].uri, "target": rabbits[1].uri}
    with FaultProxy(node.host, node.port) as proxy:
        address = f"{node.host}:{node.port}"
        uris[end] = uris[end].replace(address, f"{proxy.host}:{proxy.port}")
        bridge = begin(tmp_path, uris["source"], uris["target"], queue)
        nth = 5 if method == BASIC_ACK else 500
        cut = proxy.cut_on(method, nth, direction=direction, then=bridge.kill)  # type: ignore[arg-type]
        with bridge:
            assert cut.wait(60)
            bridge.start()
            check(plain, rabbits, queue, WINDOW)
            assert bridge.stop() == 0
