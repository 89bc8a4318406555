"""A queue at each of two brokers of any kinds, and links from the one to the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from understudyd.testing.bridged import BridgeProcess, RunningLink, until
from understudyd.testing.sides import Side

__all__ = ["KINDS", "PAIRS", "Pair", "over"]

KINDS = ("amqp", "rabbitmq-stomp", "activemq")
PAIRS = tuple(pair for pair in product(KINDS, KINDS) if pair != ("amqp", "amqp"))
"""Of these; AMQP to AMQP, which goes another way through the bridge, has tests of its own."""


def _named(pair: object) -> str:
    """What a test over such a pair is called."""
    return "-to-".join(pair) if isinstance(pair, tuple) else str(pair)


def over(*pairs: tuple[str, str], fixture: str = "sides") -> pytest.MarkDecorator:
    """A test over these pairs; the fixture gets each as its parameter."""
    return pytest.mark.parametrize(fixture, pairs, ids=_named, indirect=True)


class Pair:
    """The queue has another name at the target, so that both may be at one broker."""

    def __init__(self, source: Side, target: Side, queue: str) -> None:
        self.source, self.target = source, target
        self.here, self.there = queue, f"{queue}.there"
        self.parking = f"understudy.parking.{queue}"

    def make(self, arguments: Mapping[str, Any] | None = None) -> None:
        """The queues, the one at the target with these arguments."""
        self.source.make(self.here)
        self.target.make(self.there, arguments)

    def remove(self) -> None:
        self.source.remove(self.here)
        self.target.remove(self.there)
        self.source.remove(self.parking)
        self.target.remove(self.parking)

    def link(self, *, source: str = "", target: str = "", **options: Any) -> RunningLink:
        """``source`` and ``target`` are other ways to the same brokers."""
        rename = {f"queue://{self.here}": f"queue://{self.there}"}
        given = {"rename": rename, "name": self.here, "network_ttl": -1, **options}
        return RunningLink(source or self.source.uri, target or self.target.uri, self.here, **given)

    def process(
        self, folder: Path, *, source: str = "", target: str = "", **options: object
    ) -> BridgeProcess:
        return BridgeProcess(
            folder,
            source or self.source.uri,
            target or self.target.uri,
            self.here,
            rename={f"queue://{self.here}": f"queue://{self.there}"},
            **options,
        )

    def move(self, count: int, **options: Any) -> None:
        """Forward so many, and see that the link holds nothing back."""
        with self.link(**options) as link:
            link.await_forwarded(count)
            until(lambda: not link.in_flight, "all is settled")

    def arrived(self) -> list[bytes]:
        """The bodies at the target; it is empty then."""
        return [content.body for content in self.target.take(self.there)]

    def left(self) -> list[bytes]:
        """The bodies at the source; it is empty then."""
        return [content.body for content in self.source.take(self.here)]

    def check(self, sent: Sequence[bytes], doubled: int) -> None:
        """Nothing is lost, and no more is there twice than may be."""
        found = Counter([*self.arrived(), *self.left()])
        lost = set(sent) - set(found)
        assert not lost, f"{len(lost)} lost, as {sorted(lost)[0][:20]!r}"
        assert not set(found) - set(sent)
        assert sum(found.values()) - len(sent) <= doubled
