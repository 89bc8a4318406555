"""A spool between a source that only writes down what it is asked, and a link that is the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from understudy.core.backoff import Backoff
from understudyd.bridge.dialects import RABBITMQ_AMQP, Dialect
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.spool.shelf import Shelf
from understudyd.bridge.spool.source import SpooledSource
from understudyd.bridge.spool.store import Store
from understudyd.bridge.wire.bodies import body_frames, join_body
from understudyd.bridge.wire.properties import build
from understudyd.testing.spooled import MemoryFiles

__all__ = ["RestlessSource", "SpoolBench", "amqp", "run"]

PATIENCE = 30.0  # s
PROPERTIES = build({"delivery_mode": 2})
ROUTE = b"\0\x06orders"


def amqp(tag: int, body: bytes, properties: bytes = PROPERTIES) -> Any:
    return (tag, 0, ROUTE, properties, len(body), body_frames(body, 4096))


class RestlessSource:
    """Delivers what the test gives it."""

    frame_max = 4096

    def __init__(self, hooks: SourceHooks[Any]) -> None:
        self.hooks = hooks
        self.dialect: Dialect | None = None
        self.opened = self.closed = self.rests = 0
        self.trouble: list[ConnectionFailed] = []
        self.acknowledged: list[int] = []
        self.windows: list[int] = []
        self.waits = 0
        self.is_reading = True

    async def open(self, window: int, frame_max: int) -> None:
        self.opened += 1
        self.windows.append(window)
        if self.trouble:
            raise self.trouble.pop(0)
        self.dialect = RABBITMQ_AMQP

    def widen(self, window: int) -> None:
        self.windows.append(window)

    async def ready(self) -> int:
        return self.waits

    def read(self, is_wanted: bool) -> None:
        self.is_reading = is_wanted

    def acknowledge(self, tag: int) -> None:
        self.acknowledged.append(tag)

    async def close(self) -> None:
        self.closed += 1


class RestingSource(RestlessSource):
    def rest(self) -> None:
        self.rests += 1


class SpoolBench:
    """The folder outlives the bridge: `bridge()` makes another one."""

    def __init__(self, **given: Any) -> None:
        self.files = MemoryFiles(Random(1))
        self.files.claim = lambda: None  # type: ignore[attr-defined]
        self.files.release = lambda: None  # type: ignore[attr-defined]
        self.given: dict[str, Any] = {
            "quota": 1 << 20,
            "watch_time": PATIENCE,
            "kind": RestingSource,
            **given,
        }
        self.bridge()

    def bridge(self, seed: int = 1) -> None:
        settings = LinkSettings(
            backoff=Backoff(1.0, 1.0), watch_time=self.given["watch_time"], prefetch=100
        )
        store = Store(self.files, self.given["quota"], Random(1))
        shelf = Shelf(self.files, store, "/spool")  # type: ignore[arg-type]
        self.got: list[Any] = []
        self.lost: list[str] = []
        self.failed = 0
        hooks: SourceHooks[Any] = SourceHooks(self.got.extend, self.lost.append)
        self.spool = SpooledSource(self._make, shelf, settings, hooks, Random(seed), self._fail)

    def _make(self, hooks: SourceHooks[Any]) -> Any:
        self.source: RestlessSource = self.given["kind"](hooks)
        return self.source

    def _fail(self) -> None:
        self.failed += 1

    @property
    def bodies(self) -> list[bytes]:
        return [join_body(delivery[5]) for delivery in self.got]

    @property
    def shown(self) -> tuple[str, str]:
        return self.spool.shown("running", "")

    async def until(self, check: Callable[[], Any]) -> None:
        async def wait() -> None:
            while not check():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), PATIENCE)

    async def fill(self, *deliveries: Any) -> None:
        """Take these in, on disk and settled."""
        self.spool.follow("waiting-target")
        await self.until(lambda: self.shown == ("running", ""))
        before = len(self.source.acknowledged)
        self.source.hooks.on_deliveries(list(deliveries))
        last = deliveries[-1][0]
        await self.until(lambda: last in self.source.acknowledged[before:])

    async def end(self) -> None:
        await self.spool.close()
        await asyncio.wait_for(self.spool.end(), PATIENCE)


def run(scenario: Callable[[SpoolBench], Coroutine[Any, Any, None]], **given: Any) -> None:
    async def main() -> None:
        bench = SpoolBench(**given)
        try:
            await scenario(bench)
        finally:
            await bench.end()

    asyncio.run(main())
