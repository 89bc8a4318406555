"""A bridge with a journal and a spool, killed at each point between the two: nothing is lost, what
is remembered is not sent again, equal or not (scenarios 41, 70)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.testing.brokers import RabbitMQ, start_all
from understudyd.testing.bridged import BridgeProcess, until
from understudyd.testing.pairs import Pair
from understudyd.testing.sides import Side, side

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.scenario(41, 70),
]

WINDOW = 100
PATIENCE = 120.0  # s
WAYS = (
    ("amqp", "amqp", "journal"),
    ("activemq", "amqp", "journal"),
    ("amqp", "activemq", "target"),
)
FORGETS = """
from understudyd.bridge.spool.store import Store
Store._write_cursor = lambda _: None
"""
KILLS = """
import os, signal
from understudyd.bridge.{module} import {name} as doomed
real, left = doomed.{method}, [{count}]
def once(*given):
    left[0] -= 1
    if not left[0] and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(*given)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
doomed.{method} = once
"""
POINTS = {
    "written, not synced": ("spool.disk", "Folder", "sync", True),
    "on disk, the source not told": ("spool.store", "Store", "append", False),
    "confirmed, not remembered": ("dedup.journal", "Journal", "write", True),
    "remembered, the spool not told": ("dedup.journal", "Journal", "write", False),
    "the cursor not written": ("spool.store", "Store", "acknowledge", True),
    "the cursor written": ("spool.store", "Store", "acknowledge", False),
    "a segment done with": ("spool.disk", "Folder", "delete", True),
}


@pytest.fixture(params=WAYS, ids="-".join)
def way(
    request: pytest.FixtureRequest,
    rabbits: tuple[RabbitMQ, RabbitMQ],
    unique: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Pair, BridgeProcess]]:
    """The queues, and a bridge between them that was not started yet."""

    def of(kind: str, node: RabbitMQ) -> Side:
        return side(kind, request.getfixturevalue("activemq") if kind == "activemq" else node)

    here, there, dedup = request.param
    pair = Pair(of(here, rabbits[0]), of(there, rabbits[1]), unique)
    pair.make()
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    given: dict[str, Any] = {"dedup": dedup, "spool": str(tmp_path / "spool")}
    given |= {"spool_size": "1MiB", "prefetch_size": WINDOW}
    bridge = pair.process(tmp_path, **given)
    yield pair, bridge
    if bridge.process is not None and bridge.process.poll() is None:
        bridge.kill()
    start_all(*rabbits)
    pair.remove()


def arrive(pair: Pair, sent: list[bytes], found: list[bytes]) -> None:
    """Until all that was sent is among what was found."""
    wanted = Counter(sent)

    def have_come() -> bool:
        found.extend(pair.arrived())
        return not wanted - Counter(found)

    until(have_come, f"all of {len(sent)} have come", PATIENCE)


def come_to_an_end(pair: Pair, bridge: BridgeProcess, sent: list[bytes]) -> list[bytes]:
    found: list[bytes] = []
    arrive(pair, sent, found)
    assert bridge.stop() == 0
    found += pair.arrived()
    assert set(found) == set(sent)
    assert not pair.left()
    return found


def test_all_that_was_confirmed_before_the_cursor_is_on_disk_is_kept_back(
    way: tuple[Pair, BridgeProcess],
) -> None:
    """A whole window of messages of which each is there three times."""
    pair, bridge = way
    sent = [b"%06d" % (number // 3) for number in range(WINDOW)]
    pair.source.fill(pair.here, sent)
    bridge.start(FORGETS)
    found: list[bytes] = []
    arrive(pair, sent, found)
    time.sleep(1.0)  # in which the journal is written; confirms were read before
    bridge.kill()
    bridge.start()
    pair.source.fill(pair.here, [b"last"])
    arrive(pair, [*sent, b"last"], found)
    assert bridge.stop() == 0
    found += pair.arrived()
    assert Counter(found) == Counter([*sent, b"last"])
    assert not pair.left()


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_each_point_loses_nothing_and_keeps_the_order(
    way: tuple[Pair, BridgeProcess], point: str
) -> None:
    pair, bridge = way
    module, name, method, before = POINTS[point]
    rng = random.Random(7)
    sent = [b"%06d" % number + b"x" * 500 for number in range(4_000)]
    pair.source.fill(pair.here, sent)
    kills = 3
    for _ in range(kills):
        count = rng.randint(2, 4) if method == "delete" else rng.randint(5, 60)
        told = {"module": module, "name": name, "method": method, "before": before}
        bridge.start(KILLS.format(count=count, **told))
        assert bridge.process is not None
        assert bridge.process.wait(PATIENCE) == -9
    bridge.start()
    found = come_to_an_end(pair, bridge, sent)
    assert len(found) - len(sent) <= 2 * kills * WINDOW
    assert list(dict.fromkeys(found)) == sent
