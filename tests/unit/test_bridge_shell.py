"""What carries a link's orders to its ends, with ends that only write down what they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from understudyd.bridge import homing
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_AMQP, Dialect
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.joints import Span, dialer_of
from understudyd.bridge.names import Pattern
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.shell import LinkRunner
from understudyd.bridge.words import Batch, CloseSource, ParkAtSource, State

PATIENCE = 30.0  # s


class End:
    """Source and target."""

    frame_max = 0

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.trouble: list[Exception] = []
        self.dialects: list[Dialect] = []
        self.dialect: Dialect | None = None
        self.is_reading = True
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def open(self, *_: int) -> None:
        self.opened += 1
        if self.dialects:
            self.dialect = self.dialects.pop(0)
        if self.trouble:
            raise self.trouble.pop(0)

    async def close(self) -> None:
        self.closed += 1

    async def ready(self) -> int:
        return await self.answer

    def read(self, is_wanted: bool) -> None:
        self.is_reading = is_wanted


class Bench:
    """A link between two such ends."""

    def __init__(self, target_uri: str = "amqp://127.0.0.1:2") -> None:
        options = Options(statically_included=("queue://a",), dynamically_included=("queue://a",))
        rng = Random(1)
        span = Span(
            "b",
            dialer_of("amqp://127.0.0.1:1", {}, rng),
            Pattern.parse("queue://a"),
            dialer_of(target_uri, {}, rng),
            Routes(options, "x", "y"),
        )
        self.runner = LinkRunner(span, rng=rng)
        self.source, self.target = End(), End()
        self.runner._source, self.runner._target = self.source, self.target  # type: ignore[assignment]

    @property
    def state(self) -> State:
        return self.runner.link.state

    async def until(self, check: Callable[[], Any]) -> None:
        async def wait() -> None:
            while not check():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(wait(), PATIENCE)

    async def start(self) -> None:
        self.runner.start()
        await self.until(lambda: self.state is State.RUNNING)


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        bench = Bench(**options)
        await scenario(bench)
        bench.runner.stop()
        await asyncio.wait_for(bench.runner.finished, PATIENCE)

    asyncio.run(main())


@pytest.mark.parametrize("end", ["source", "target"])
def test_an_end_that_raises_what_nobody_expected_is_opened_again(end: str) -> None:
    async def scenario(bench: Bench) -> None:
        getattr(bench, end).trouble.append(ValueError("odd"))
        bench.runner.start()
        await bench.until(lambda: "unexpected: ValueError: odd" in bench.runner.link.reason)
        await bench.until(lambda: bench.state is State.RUNNING)
        assert getattr(bench, end).opened == 2

    run(scenario)


def test_what_cannot_be_parked_for_an_unknown_reason_is_told() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start()
        told: list[str] = []
        bench.runner.link.park_failed = lambda reason, now: told.append(reason) or []  # type: ignore

        async def put(_: object) -> None:
            raise ValueError("odd")

        bench.runner._joint.deposit.put = put  # type: ignore[method-assign, assignment]
        bench.runner._do([ParkAtSource(1, (b"", b"", b"", 0))])
        await bench.until(lambda: told)
        assert told == ["unexpected: ValueError: odd"]

    run(scenario)


@pytest.mark.parametrize(("dialect", "most"), [(RABBITMQ_AMQP, 500), (ACTIVEMQ, 1000)])
def test_how_much_a_target_gets_at_a_time_is_a_matter_of_its_broker(
    dialect: Dialect, most: int
) -> None:
    async def scenario(bench: Bench) -> None:
        sent: list[bytes] = []
        bench.target.dialects = [dialect]
        bench.target.send = sent.extend  # type: ignore[attr-defined]
        await bench.start()
        parcels = [(b"publish", b"header", b"body", 4)] * 1000
        bench.runner._do(bench.runner.link.delivered(Batch(list(range(1, 1001)), parcels), 0.0))
        assert len(sent) == 3 * most
        bench.runner.link.confirmed([(1000, 1, True)], 0.0)
        bench.runner.link.confirmed([(1000, 1, True)], 0.0)

    run(scenario)


def test_a_batch_that_nobody_can_make_anything_of_is_not_settled_by_the_next() -> None:
    """Its tags would be below those that are acknowledged: it is given back, and told."""

    async def scenario(bench: Bench) -> None:
        await bench.start()

        def prepare(*_: object) -> None:
            raise KeyError("odd")

        bench.runner._forwarder.prepare = prepare  # type: ignore[method-assign, assignment]
        bench.runner._source_hooks().on_deliveries([(1, 0, b"", b"\0\0", 0, b"")])
        assert "unexpected: KeyError" in bench.runner.link.reason
        assert not bench.runner.link.takes_deliveries
        await bench.until(lambda: bench.source.closed == 1)
        await bench.until(lambda: bench.state is State.RUNNING)

    run(scenario)


def test_a_source_that_is_closed_delivers_nothing_more_in_the_same_turn() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start()
        taken: list[object] = []
        bench.runner.link.delivered = lambda *told: taken.append(told) or []  # type: ignore
        tell = bench.runner._source_hooks()
        bench.runner._do([CloseSource()])
        tell.on_deliveries([(1, 0, b"", b"\0\0", 0, b"")])
        tell.on_lost("late")
        assert taken == []
        assert bench.state is State.RUNNING

    run(scenario)


def test_what_comes_while_a_link_ends_is_not_prepared() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start()
        seen: list[object] = []
        bench.runner._forwarder.prepare = lambda *told: seen.append(told)  # type: ignore
        bench.runner.link.state = State.DRAINING
        bench.runner._source_hooks().on_deliveries([(1, 0, b"", b"\0\0", 0, b"")])
        assert seen == []
        bench.runner.link.state = State.RUNNING

    run(scenario)


def test_a_question_is_dropped_with_the_source_it_was_put_to() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start()
        told: list[int] = []
        bench.runner.link.source_has = lambda ready, now: told.append(ready) or []  # type: ignore
        question = bench.runner._ask_source()
        bench.runner._run("question", question)
        await asyncio.sleep(0)
        bench.source.answer.set_result(5)
        bench.runner._do([CloseSource()])
        await asyncio.sleep(0.05)
        assert told == []

    run(scenario)


def test_pauses_and_resumes_in_one_turn_leave_no_connection_behind() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start()
        for _ in range(3):
            bench.runner.pause("a test")
            bench.runner.resume()
        await bench.until(lambda: bench.state is State.RUNNING)
        assert (bench.source.closed, bench.target.closed) == (3, 3)
        assert bench.source.opened == bench.target.opened == 2

    run(scenario)


def test_another_kind_of_target_opens_the_source_anew_also_after_an_attempt_that_failed() -> None:
    async def scenario(bench: Bench) -> None:
        bench.target.dialects = [ACTIVEMQ, ARTEMIS, ARTEMIS]
        await bench.start()
        bench.target.trouble.append(ConnectionFailed("not yet"))
        bench.runner._target_hooks().on_lost("gone", None)
        await bench.until(lambda: bench.target.opened == 3 and bench.state is State.RUNNING)
        assert (bench.source.opened, bench.source.closed) == (2, 1)

    run(scenario)


def test_a_paused_link_looks_for_no_preferred_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    class Watch(homing.Homing):
        async def watch(self) -> None:
            looks.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                looks.append("ended")

    monkeypatch.setattr("understudyd.bridge.shell.Homing", Watch)

    async def scenario(bench: Bench) -> None:
        await bench.start()
        bench.runner.pause("a test")
        await bench.until(lambda: looks == ["begun", "ended"])
        bench.runner.resume()
        await bench.until(lambda: looks == ["begun", "ended", "begun"])

    run(scenario, target_uri="failover:(amqp://127.0.0.1:2,amqp://127.0.0.1:3)?priorityBackup=true")
    assert looks[-1] == "ended"


def test_a_look_that_fails_in_an_unknown_way_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(homing, "LOOK_EVERY", 0.0)

    class Home:
        is_away = True
        looks = 0

        async def is_home_open(self) -> bool:
            self.looks += 1
            raise OSError("odd")

        def come_home(self) -> None: ...

    async def main() -> None:
        home = Home()
        watch = asyncio.ensure_future(homing.Homing([home], lambda: None).watch())
        while home.looks < 3:
            assert not watch.done()
            await asyncio.sleep(0)
        watch.cancel()

    asyncio.run(main())
