"""Bridges whose ends are ActiveMQ pairs over one store: the master is killed again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from understudy.testing.brokers import ActiveMQ, RabbitMQ, Server
from understudyd.bridge.settings import LinkSettings
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.sides import AmqpSide, Side, StompSide

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

SOON = "connectTimeout=2000&maxReconnectDelay=200&heartbeat=2000"
WINDOW = 100
PART = 300  # messages between two kills


class Masters:
    """Two brokers of which one has the store; the other takes its place when it is killed."""

    def __init__(self, folder: Path) -> None:
        self._nodes = [
            ActiveMQ(name="shared", folder=folder),
            ActiveMQ(name="shared", folder=folder),
        ]
        self.uri = f"masterslave:({','.join(node.uri for node in self._nodes)})?{SOON}"

    @property
    def master(self) -> ActiveMQ:
        return self._nodes[0]

    @property
    def side(self) -> StompSide:
        return StompSide(self.master)

    def start(self) -> None:
        self.master.start()

    def kill(self) -> None:
        """kill -9; the standby is the master when this returns."""
        self.master.kill()
        self._nodes.reverse()
        self.start()

    def close(self) -> None:
        for node in self._nodes:
            node.close()


@pytest.fixture
def masters(tmp_path: Path, installed: Callable[[Server], None]) -> Iterator[Masters]:
    made = Masters(tmp_path)
    installed(made.master)
    made.start()
    yield made
    made.close()


def messages(turn: int) -> list[bytes]:
    return [b"%d-%d" % (turn, number) for number in range(PART)]


def lose_masters(masters: Masters, other: AmqpSide, queue: str, ends: str, kills: int) -> None:
    """Messages come all the time, and the master is killed while they are moved."""
    other.make(queue)
    there = f"{queue}.there"
    other.make(there)

    def side(end: str) -> Side:
        return masters.side if end in ends else other

    source, target = (masters.uri if one in ends else other.uri for one in ("source", "target"))
    rename = {f"queue://{queue}": f"queue://{there}"}
    settings = LinkSettings(prefetch=WINDOW)
    sent: list[bytes] = []
    found: list[bytes] = []
    with RunningLink(
        source, target, queue, settings=settings, rename=rename, network_ttl=-1
    ) as link:
        for turn in range(kills):
            enough = link.forwarded + PART // 3
            side("source").fill(queue, messages(turn))
            sent += messages(turn)
            until(partial(lambda least: link.forwarded >= least, enough), "it moves")
            masters.kill()

        def all_came() -> bool:
            found.extend(one.body for one in side("target").take(there))
            return set(found) == set(sent)

        until(all_came, f"all {len(sent)} have arrived")
        until(lambda: link.state == "running" and not link.in_flight, "all is settled")
    assert link.parked == 0
    other.remove(queue)
    other.remove(there)


def test_a_bridge_follows_the_master_of_a_shared_store(
    masters: Masters, rabbit_b: RabbitMQ, unique: str
) -> None:
    """B25, scenarios 15, 16 and 60: it is the broker of both ends."""
    lose_masters(masters, AmqpSide(rabbit_b), unique, "source and target", 3)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["source", "target"])
def test_a_bridge_follows_many_masters(
    masters: Masters, rabbit_b: RabbitMQ, unique: str, end: str
) -> None:
    lose_masters(masters, AmqpSide(rabbit_b), unique, end, 20)
