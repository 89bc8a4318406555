"""The STOMP ends of a bridge for tests: opened in the test's own loop, what they tell is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from understudy.wire.stomp import encode
from understudyd.bridge.content import StompContent
from understudyd.bridge.ends.endpoints import StompDialer
from understudyd.bridge.ends.port import SourceHooks, StompDelivery, TargetHooks
from understudyd.bridge.ends.stomp_source import StompSource
from understudyd.bridge.ends.stomp_target import StompTarget
from understudyd.bridge.names import Pattern
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.reader import Confirm

__all__ = ["Sink", "Tap", "pieces", "soon"]

PATIENCE = 30.0  # s


async def soon(check: Callable[[], Any], what: str, within: float = PATIENCE) -> None:
    """Wait until something is so; AssertionError when it does not become so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not check():
        assert loop.time() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.01)


def pieces(destination: str, *bodies: bytes, **headers: str) -> list[bytes]:
    """What a target is sent: persistent messages of bytes."""
    made = []
    for body in bodies:
        told = {"destination": destination, "persistent": "true"}
        told |= {"content-length": str(len(body)), **headers}
        head = encode("SEND", told).partition(b"\n\n")[0] + b"\n"
        made += [head, b"", body + b"\0"]
    return made


class Tap:
    """A source, and what it told."""

    def __init__(
        self,
        uri: str,
        pattern: str,
        *,
        prefetch: int = 1000,
        is_acknowledging: bool = False,
        **options: Any,
    ) -> None:
        """``is_acknowledging``: all that comes, at once."""
        self._is_acknowledging = is_acknowledging
        self.got: dict[int, StompContent] = {}
        self.batches: list[int] = []
        self.lost: list[str] = []
        self.end = StompSource(
            StompDialer(uri, Random(1)),
            Pattern.parse(pattern),
            SourceHooks(self._came, self.lost.append),
            prefetch=prefetch,
            **options,
        )

    @property
    def bodies(self) -> list[bytes]:
        return [content.body for content in self.got.values()]

    async def await_count(self, count: int) -> None:
        await soon(lambda: len(self.got) >= count, f"{count} messages")

    def _came(self, deliveries: list[StompDelivery]) -> None:
        self.batches.append(len(deliveries))
        self.got.update(deliveries)
        if self._is_acknowledging:
            self.end.acknowledge(deliveries[-1][0])


class Sink:
    """A target, and what it told."""

    def __init__(self, uri: str, *, queue: str = "") -> None:
        self.confirms: list[Confirm] = []
        self.confirmed: set[int] = set()
        self.lost: list[tuple[str, Closed | None]] = []
        self.congested: list[bool] = []
        hooks = TargetHooks(
            on_confirms=self._confirmed,
            on_returned=lambda _: None,
            on_blocked=lambda _: None,
            on_congested=self.congested.append,
            on_lost=lambda reason, closed: self.lost.append((reason, closed)),
        )
        self.end = StompTarget(StompDialer(uri, Random(1)), hooks, queue=queue)

    async def await_confirmed(self, count: int) -> None:
        await soon(lambda: len(self.confirmed) >= count, f"{count} confirms")

    def _confirmed(self, confirms: Iterable[Confirm]) -> None:
        for number, multiple, is_ack in confirms:
            assert is_ack
            self.confirms.append((number, multiple, is_ack))
            self.confirmed.update(range(1, number + 1) if multiple else (number,))
