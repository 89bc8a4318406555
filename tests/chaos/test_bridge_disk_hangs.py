"""A disk that hangs under one bridge of a process: the others go on, no broker loses its patience
with any, and when the disk answers nothing is lost (scenarios 43, 70)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from understudy.testing.brokers import RabbitMQ
from understudyd.testing.bridged import BridgeProcess, until
from understudyd.testing.pairs import Pair
from understudyd.testing.sides import AmqpSide

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.scenario(43, 70),
]

WINDOW = 100
HUNG = 8.0  # s; heart-beats are due each second, and missed after two
HANGS = """
import os, time
from understudyd.bridge.dedup.journal import Journal
def waiting(real):
    def call(*given):
        while os.path.exists({flag!r}):
            time.sleep(0.02)
        return real(*given)
    return call
Journal.write, Journal.open = waiting(Journal.write), waiting(Journal.open)
os.fsync = waiting(os.fsync)
"""


@pytest.fixture
def pairs(rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str) -> Iterator[list[Pair]]:
    """The queues of two bridges between the same brokers."""
    made = [Pair(AmqpSide(rabbit_a), AmqpSide(rabbit_b), f"{unique}.{n}") for n in range(2)]
    for pair in made:
        pair.make()
    yield made
    for pair in made:
        pair.remove()


def configured(folder: Path, pairs: list[Pair], option: str) -> BridgeProcess:
    """The first bridge has the option."""
    (folder / "state").mkdir()
    lines = ["[network]", 'state = "state"']
    for number, pair in enumerate(pairs):
        lines += [
            f"[bridges.b{number}]",
            f"source = {json.dumps(pair.source.uri + '?heartbeat=1000')}",
            f"target = {json.dumps(pair.target.uri + '?heartbeat=1000')}",
            f"statically_included = {json.dumps([f'queue://{pair.here}'])}",
            f"prefetch_size = {WINDOW}",
            "" if number else option,
            f"rename = {{ {json.dumps(f'queue://{pair.here}')} = "
            f"{json.dumps(f'queue://{pair.there}')} }}",
        ]
    return BridgeProcess.of(folder, "\n".join(lines))


def arrive(pair: Pair, found: list[bytes], count: int) -> None:
    """Until so many were found."""

    def have_come() -> bool:
        found.extend(pair.arrived())
        return len(found) >= count

    until(have_come, f"{count} have come")


@pytest.mark.parametrize("option", ['dedup = "journal"', 'spool = "spool"'])
def test_a_disk_that_hangs_holds_up_one_bridge(
    tmp_path: Path, pairs: list[Pair], option: str
) -> None:
    stuck, free = pairs
    flag = tmp_path / "hangs"
    bridge = configured(tmp_path, pairs, option)
    sent = [b"%06d" % number for number in range(1_000)]
    found: list[bytes] = []
    others: list[bytes] = []
    with ExitStack() as ending:
        ending.push(bridge)
        bridge.start(HANGS.format(flag=str(flag)))
        stuck.source.fill(stuck.here, [b"first"])
        arrive(stuck, found, 1)
        flag.touch()
        begun = time.monotonic()
        stuck.source.fill(stuck.here, sent)
        while time.monotonic() < begun + HUNG:
            free.source.fill(free.here, [b"more"])
            arrive(free, others, len(others) + 1)
        found += stuck.arrived()
        assert len(found) <= 1 + WINDOW
        assert "silent" not in bridge.log
        assert "lost" not in bridge.log
        flag.unlink()
        arrive(stuck, found, 1 + len(sent))
        assert bridge.stop() == 0
    assert found + stuck.arrived() == [b"first", *sent]
    assert not stuck.left()
