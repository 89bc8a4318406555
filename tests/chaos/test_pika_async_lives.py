"""Many channels of one AsyncConnection, each with a life of its own, while everything fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest
from pika import exceptions

from understudy.errors import Refused
from understudy.pika import AsyncChannel, AsyncConnection, TransactionRolledBack
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

LIVES = 30  # at once, of one to five channels each


class World:
    """One queue, what was reported as sent to it, and what may be done on a channel."""

    def __init__(self, queue: str, rng: random.Random) -> None:
        self.queue = queue
        self.sent: set[str] = set()
        self._rng = rng
        self._deeds: list[Callable[[AsyncChannel], Awaitable[None]]] = [
            self.publish,
            self.consume,
            self.begin_and_cancel,
            self.get,
            self.commit_or_not,
            self.be_refused,
        ]

    async def live(self, connection: AsyncConnection) -> None:
        for _ in range(self._rng.randint(1, 5)):
            channel = await connection.channel()
            with contextlib.suppress(TransactionRolledBack, asyncio.TimeoutError):
                await self._rng.choice(self._deeds)(channel)
            if self._rng.random() < 0.8:
                await channel.close()

    def bodies(self, count: int) -> list[str]:
        return [f"{self._rng.random()}" for _ in range(count)]

    async def publish(self, channel: AsyncChannel) -> None:
        bodies = self.bodies(20)
        await asyncio.gather(*(channel.basic_publish("", self.queue, body) for body in bodies))
        self.sent.update(bodies)

    async def consume(self, channel: AsyncChannel) -> None:
        await channel.basic_qos(prefetch_count=3)
        async with channel.consume(self.queue) as messages:
            for _ in range(3):
                await (await asyncio.wait_for(anext(messages), 0.5)).nack()

    async def begin_and_cancel(self, channel: AsyncChannel) -> None:
        async with channel.consume(self.queue):
            pass

    async def get(self, channel: AsyncChannel) -> None:
        message = await channel.basic_get(self.queue)
        if message is not None:
            await message.nack()

    async def commit_or_not(self, channel: AsyncChannel) -> None:
        await channel.tx_select()
        bodies = self.bodies(5)
        for body in bodies:
            await channel.basic_publish("", self.queue, body)
        if self._rng.random() < 0.3:
            await channel.tx_rollback()
        else:
            await channel.tx_commit()
            self.sent.update(bodies)

    async def be_refused(self, channel: AsyncChannel) -> None:
        with pytest.raises(exceptions.ChannelClosedByBroker):
            await channel.queue_declare(f"{self.queue}-missing", passive=True)
        with pytest.raises(Refused):
            await channel.basic_publish(f"{self.queue}-missing", "", b"")
        await channel.queue_declare(self.queue, passive=True)


async def disturb(proxy: FaultProxy, lives: list[asyncio.Task[None]], rng: random.Random) -> None:
    while True:
        await asyncio.sleep(rng.random() / 10)
        kind = rng.random()
        if kind < 0.6:
            proxy.reset()
        elif kind < 0.85:
            proxy.cut_after(rng.randrange(2000), direction=rng.choice(["up", "down"]))
        elif kind < 0.95:
            rng.choice(lives).cancel()
        else:
            proxy.black_hole()
            await asyncio.sleep(0.3)
            proxy.heal()


async def take_all(channel: AsyncChannel, queue: str) -> set[str]:
    found = set()
    while (message := await channel.basic_get(queue, auto_ack=True)) is not None:
        found.add(message.body.decode())
    return found


@pytest.mark.parametrize("seed", range(6))
def test_lives_of_channels_through_faults(rabbit_a: RabbitMQ, unique: str, seed: int) -> None:
    """F17, F20, F53: no call hangs, nothing that was reported as sent is lost, none is withheld."""
    rng = random.Random(seed)
    world = World(unique, rng)

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            places = f"failover:(amqp://{proxy.host}:{proxy.port})?initialReconnectDelay=0"
            async with AsyncConnection(f"{places}&timeout=30000&heartbeat=1000") as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                lives = [asyncio.create_task(world.live(connection)) for _ in range(LIVES)]
                disturber = asyncio.create_task(disturb(proxy, lives, rng))
                outcomes = await asyncio.gather(*lives, return_exceptions=True)
                disturber.cancel()
                await asyncio.wait((disturber,))
                proxy.heal()
                for outcome in outcomes:
                    if not isinstance(outcome, asyncio.CancelledError | None):
                        raise outcome
            async with AsyncConnection(places) as connection:  # no channel holds anything any more
                channel = await connection.channel()
                found = await take_all(channel, unique)
                await channel.queue_delete(unique)
        assert world.sent <= found

    run_clean(main(), 120)
