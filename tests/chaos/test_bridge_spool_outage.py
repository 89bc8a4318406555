"""A long outage of the target at a steady rate, with a spool: the source is drained all the time,
and afterwards all is there, in order, with the disk and the memory as before (scenario 70)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest

from understudy.testing.brokers import RabbitMQ, start_all
from understudyd.testing.bridged import BridgeProcess, until
from understudyd.testing.pairs import Pair
from understudyd.testing.sides import AmqpSide

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.scenario(70),
]

WINDOW = 1000
TURNS, MANY, PAUSE = 20, 10_000, 2.0  # so many messages in each turn, of so many seconds
MIB = 1 << 20
SPOOL = 96  # MiB; the outage takes four fifths of it
SEGMENT = SPOOL // 8  # MiB, see `store.SEGMENTS`
PATIENCE = 300.0  # s


@pytest.fixture
def pair(rabbits: tuple[RabbitMQ, RabbitMQ], unique: str) -> Iterator[Pair]:
    made = Pair(AmqpSide(rabbits[0]), AmqpSide(rabbits[1]), unique)
    made.make()
    rabbits[1].settle()
    yield made
    start_all(*rabbits)
    made.remove()


def memory(bridge: BridgeProcess) -> int:
    """MiB that the process has in RAM."""
    assert bridge.process is not None
    told = Path(f"/proc/{bridge.process.pid}/statm").read_text(encoding="ascii")
    return int(told.split()[1]) * 4096 // MIB


def segments(folder: Path) -> list[Path]:
    return list(folder.glob("*/*.segment"))


def on_disk(folder: Path) -> int:
    """MiB that the segments take."""
    return sum(one.stat().st_blocks for one in segments(folder)) * 512 // MIB


def consumed(broker: RabbitMQ, queue: str, last: bytes) -> list[bytes]:
    """All that comes, up to the last."""
    found: list[bytes] = []
    with amqp.Connection(f"{broker.host}:{broker.port}") as connection:
        channel = connection.channel()
        channel.basic_consume(queue, no_ack=True, callback=lambda one: found.append(one.body))
        while not found or found[-1] != last:
            connection.drain_events(timeout=PATIENCE)
    return found


def test_a_long_outage_at_a_steady_rate(tmp_path: Path, pair: Pair) -> None:
    source, target, spool = pair.source.broker, pair.target.broker, tmp_path / "spool"
    assert isinstance(source, RabbitMQ)
    assert isinstance(target, RabbitMQ)
    bodies = [b"%07d" % number + b"x" * 270 for number in range(TURNS * MANY)]
    rss: list[int] = []
    given: dict[str, Any] = {
        "spool": str(spool),
        "spool_size": f"{SPOOL}MiB",
        "prefetch_size": WINDOW,
    }
    with pair.process(tmp_path, **given) as bridge:
        until(lambda: "is running" in bridge.log, "it runs")
        target.kill()
        for turn in range(TURNS):
            begun = time.monotonic()
            pair.source.fill(pair.here, bodies[turn * MANY : (turn + 1) * MANY])
            rss.append(memory(bridge))
            if turn == TURNS // 3:
                assert bridge.stop() == 0
                bridge.start()
            elif turn == 2 * TURNS // 3:
                bridge.kill()
                bridge.start()
            time.sleep(max(0.0, begun + PAUSE - time.monotonic()))
        until(lambda: source.queue_depth(pair.here) == 0, "the source is drained", PATIENCE)
        assert len(segments(spool)) >= 6
        assert on_disk(spool) > SPOOL // 2
        target.start()
        found = consumed(target, pair.there, bodies[-1])
        rss.append(memory(bridge))
        until(lambda: on_disk(spool) <= SEGMENT, "the room is given back")
        assert bridge.stop() == 0
    found += pair.arrived()
    assert not pair.left()
    assert list(dict.fromkeys(found)) == bodies
    assert len(found) - len(bodies) <= 2 * WINDOW
    assert max(rss) < rss[1] + 2 * SEGMENT + 32  # a segment that is found is read whole
