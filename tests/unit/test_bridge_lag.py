"""How many messages wait is asked for as long as a bridge runs, each link's broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from understudy import parse
from understudyd.bridge import lag
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.lag import LagWatch
from understudyd.bridge.run import _bridges
from understudyd.bridge.ways import ways_of
from understudyd.config.bridges import BridgeConfig
from understudyd.config.model import Secret

STEP = 0.001  # s


class Status:
    def __init__(self) -> None:
        self.told: list[int | None] = []

    def waits(self, count: int | None, now: float) -> None:
        self.told.append(count)


class Connection:
    """Answers once."""

    def __init__(self) -> None:
        self.answers = [7]

    async def call(self, *_: object) -> tuple[str, int]:
        if not self.answers:
            raise ConnectionFailed("gone")
        return "q", self.answers.pop()

    def drop(self) -> None: ...


class Script:
    """A dialer that does what comes next; the pause that a failure would cost is noted."""

    def __init__(self, *steps: Callable[[], Any]) -> None:
        self._steps = list(steps)
        self.pauses: list[float] = []
        self.watch: LagWatch
        self.is_done = asyncio.Event()

    async def dial(self, _: object) -> Any:
        self.pauses.append(self.watch._pause)
        if not self._steps:
            self.is_done.set()
            await asyncio.Event().wait()
        return self._steps.pop(0)()


def refused() -> None:
    raise ConnectionFailed("refused")


def odd() -> None:
    raise ValueError("odd")


def test_a_failure_costs_more_each_time_until_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lag, "PERIOD", STEP)

    async def main() -> None:
        script, status = Script(refused, odd, Connection, refused), Status()
        script.watch = LagWatch(script, [("q", status)])  # type: ignore[arg-type, list-item]
        running = asyncio.ensure_future(script.watch.run())
        done: Awaitable[bool] = script.is_done.wait()
        await asyncio.wait_for(done, 30)
        running.cancel()
        assert script.pauses == [STEP, 2 * STEP, 4 * STEP, 2 * STEP, 4 * STEP]
        assert status.told == [None, None, 7, None, None]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("uri", "asked"),
    [("amqp://a", [2]), ("failover:(amqp://a,amqp://b)", [1, 1]), ("stomp://a", [])],
)
def test_each_link_of_a_list_has_its_own_broker_asked(uri: str, asked: list[int]) -> None:
    config = BridgeConfig(
        "b",
        Secret(uri, str(parse(uri))),
        Secret("amqp://t", "amqp://t"),
        ("queue://one", "queue://two"),
    )

    async def main() -> None:
        (bridge,) = _bridges(ways_of([config], Path()))
        watches = bridge._watches
        assert [len(watch._links) for watch in watches] == asked
        for number, watch in enumerate(watches):
            assert watch._dialer._leader is bridge._links[number].source_dialer
            told = watch._dialer._described()
            assert told["connection_name"] == "understudy.bridge.b.lag"

    asyncio.run(main())


def test_nobody_is_asked_about_the_queues_behind_a_wildcard() -> None:
    source, target = Secret("stomp://a", "stomp://a"), Secret("amqp://t", "amqp://t")
    config = BridgeConfig("b", source, target, ("queue://orders.>",))

    async def main() -> None:
        (bridge,) = _bridges(ways_of([config], Path()))
        assert not bridge._watches

    asyncio.run(main())


def test_what_a_connection_is_called_stays_where_no_purpose_is_told() -> None:
    dialer = Dialer("amqp://a", {"connection_name": "x"}, Random(1))
    assert dialer.beside()._described() == {"connection_name": "x"}
    assert dialer.beside("lag")._described() == {"connection_name": "x.lag"}
