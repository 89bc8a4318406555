"""Messages that wait on disk, while the bridge is killed again and again, the source and the target
die and the folder is small: nothing is lost, all comes in order (scenario 70)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import ActiveMQ, RabbitMQ, start_all
from understudyd.testing.bridged import BridgeProcess, until
from understudyd.testing.pairs import Pair, over
from understudyd.testing.sides import Side, side

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.scenario(70),
]

WINDOW = 100
PATIENCE = 180.0  # s
PAIRS = (("amqp", "amqp"), ("activemq", "amqp"), ("amqp", "activemq"), ("rabbitmq-stomp", "amqp"))


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> Iterator[Pair]:
    def of(kind: str, node: RabbitMQ) -> Side:
        return side(kind, request.getfixturevalue("activemq") if kind == "activemq" else node)

    here, there = request.param
    made = Pair(of(here, rabbits[0]), of(there, rabbits[1]), unique)
    made.make()
    yield made
    start_all(*rabbits)
    made.remove()


def bodies(count: int) -> list[bytes]:
    return [b"%06d" % number + b"x" * 500 for number in range(count)]


def arrived(pair: Pair, sent: list[bytes]) -> list[bytes]:
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(pair.arrived())
        return set(found) >= set(sent)

    until(enough, f"all of {len(sent)} have arrived", PATIENCE)
    return found


def await_begin(bridge: BridgeProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while "bridge test" not in bridge.log:
        assert time.monotonic() < deadline, f"it says: {bridge.log}"
        time.sleep(0.02)


def kill(bridge: BridgeProcess) -> None:
    bridge.kill()
    bridge.log_file.write_text("")
    bridge.start()


@over(*PAIRS, fixture="pair")
@pytest.mark.parametrize("size", ["1MiB", "64MiB"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bridge_is_killed_again_and_again(
    tmp_path: Path, pair: Pair, size: str, seed: int
) -> None:
    """The target is away at first, then there, then away, then there."""
    rng = random.Random(seed)
    sent = bodies(8_000)
    pair.source.fill(pair.here, sent)
    broker: Any = pair.target.broker
    with FaultProxy(broker.host, broker.port) as far:
        address = f"{broker.host}:{broker.port}"
        target = pair.target.uri.replace(address, f"{far.host}:{far.port}")
        where: dict[str, Any] = {"spool": str(tmp_path / "spool"), "spool_size": size}
        far.refuse()
        kills = 12
        with pair.process(tmp_path, target=target, prefetch_size=WINDOW, **where) as bridge:
            for turn in range(kills):
                await_begin(bridge)
                time.sleep(rng.uniform(0.0, 0.5))
                kill(bridge)
                if turn in (3, 9):
                    far.heal()
                elif turn == 6:
                    far.refuse()
                    far.reset()
            found = arrived(pair, sent)
            assert bridge.stop() == 0
        found += pair.arrived()
    assert set(found) == set(sent)
    assert len(found) - len(sent) <= (2 * kills + 2) * WINDOW
    assert list(dict.fromkeys(found)) == sent


@over(("amqp", "amqp"), fixture="pair")
def test_brokers_die_while_messages_wait_on_disk(tmp_path: Path, pair: Pair) -> None:
    source, target = pair.source.broker, pair.target.broker
    assert not isinstance(source, ActiveMQ)
    assert not isinstance(target, ActiveMQ)
    sent = bodies(6_000)
    pair.source.fill(pair.here, sent)
    source.settle()
    target.settle()
    where: dict[str, Any] = {"spool": str(tmp_path / "spool")}
    with pair.process(tmp_path, prefetch_size=WINDOW, **where) as bridge:
        until(lambda: pair.target.depth(pair.there) > 500, "some have arrived", PATIENCE)
        target.kill()
        until(lambda: source.queue_depth(pair.here) == 0, "the source is drained", PATIENCE)
        source.kill()
        kill(bridge)
        target.start()
        until(lambda: pair.target.depth(pair.there) >= len(sent), "all have arrived", PATIENCE)
        source.start()  # who may deliver again what was settled last
        late = [b"late %d" % number for number in range(100)]
        pair.source.fill(pair.here, late)
        found = arrived(pair, [*sent, *late])
        assert bridge.stop() == 0
    found += pair.arrived()
    assert set(found) == {*sent, *late}
    assert list(dict.fromkeys(found)) == [*sent, *late]
