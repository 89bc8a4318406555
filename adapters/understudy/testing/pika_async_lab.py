"""What the tests of AsyncConnection share: URIs, faults that are noticed, looks into a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from understudy.core.events import Event
from understudy.failover.notifier import settle
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
)
from understudy.testing import FaultProxy, ScriptedPeer
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean

__all__ = ["PATIENCE", "Place", "Told", "in_order", "noticed", "take_all", "uri", "with_channel"]

Place = RabbitMQ | FaultProxy | ScriptedPeer
PATIENCE = 30.0  # s for what takes a second at most on a healthy machine


def uri(*places: Place, **options: object) -> str:
    members = ",".join(f"amqp://guest:guest@{place.host}:{place.port}" for place in places)
    given = {"timeout": 30000, "heartbeat": 0, "randomize": "false", **options}
    return f"failover:({members})?" + "&".join(f"{k}={v}" for k, v in given.items())


class Told:
    """The events of a connection, in order. Give its ``add`` as on_event."""

    def __init__(self) -> None:
        self._all: list[Event] = []

    def add(self, event: Event) -> None:
        self._all.append(event)

    @property
    def all(self) -> list[Event]:
        """Everything told before now, though another thread tells it."""
        assert settle(PATIENCE)
        return self._all

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.all]


def with_channel(
    place: Place, work: Callable[[AsyncChannel], Awaitable[Any]], **options: object
) -> Any:
    """Run ``work`` with a channel of its own."""

    async def main() -> Any:
        async with AsyncConnection(uri(place, **options)) as connection:
            return await work(await connection.channel())

    return run_clean(main())


async def noticed(connection: AsyncConnection, fault: Callable[[], None]) -> None:
    """Let a fault happen, and wait until the connection has lost its wire over it."""
    session = connection._session
    assert session is not None
    wire = session.wire
    fault()
    while session.wire is wire:
        await asyncio.sleep(0.001)


async def take_all(channel: AsyncChannel, queue: str) -> list[bytes]:
    """Everything that is in a queue now."""
    bodies = []
    while (message := await channel.basic_get(queue, auto_ack=True)) is not None:
        bodies.append(message.body)
    return bodies


def in_order(bodies: list[bytes]) -> list[int]:
    """The numbers, each where it came first."""
    return list(dict.fromkeys(int(body) for body in bodies))
