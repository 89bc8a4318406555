"""Calls of AsyncConnection cancelled at any of their awaits while the network resets them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from understudy.errors import ConnectFailed, ConnectionLost
from understudy.pika import AsyncChannel, AsyncConnection, TransactionRolledBack
from understudy.testing import FaultProxy, wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import take_all, uri

pytestmark = pytest.mark.chaos

Act = Callable[[AsyncConnection, AsyncChannel], Coroutine[Any, Any, None]]

WORKERS = 8
ACTS = 40  # of each worker


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Storm:
    """What workers do, on channels that they share and on their own, and what was reported."""

    def __init__(self, proxy: FaultProxy, queue: str, seed: int, tracks: str) -> None:
        self.queue = queue
        self.tracks = tracks
        self.rng = random.Random(seed)
        self.sent: set[bytes] = set()
        self._proxy = proxy
        self._options = {"initialReconnectDelay": 0, "heartbeat": 1000, "trackMessages": tracks}
        self._acts: list[Act] = [
            self.publish,
            self.publish,
            self.declare,
            self.open_and_close,
            self.consume,
            self.transact,
            self.connect,
        ]

    def connection(self) -> AsyncConnection:
        return AsyncConnection(uri(self._proxy, **self._options))

    async def work(self, connection: AsyncConnection, channel: AsyncChannel) -> None:
        for _ in range(ACTS):
            act = self.rng.choice(self._acts)
            with contextlib.suppress(TransactionRolledBack):
                await self._cancelled_at_some_point(act(connection, channel))

    async def _cancelled_at_some_point(self, act: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(act)
        await asyncio.sleep(0)  # one that never began would be reported by Python
        if self.rng.random() < 0.5:
            for _ in range(self.rng.randrange(30)):
                await asyncio.sleep(0)
        else:
            await asyncio.wait((task,), timeout=self.rng.random() / 20)
        if self.rng.random() < 0.8:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def disturb(self) -> None:
        while True:
            await asyncio.sleep(self.rng.random() / 8)
            if self.rng.random() < 0.6:
                self._proxy.reset()
            else:
                self._proxy.cut_after(self.rng.randrange(3000), self.rng.choice(["up", "down"]))

    # --- acts -----------------------------------------------------------------------------------

    async def publish(self, _: AsyncConnection, channel: AsyncChannel) -> None:
        body = str(self.rng.random()).encode()
        await channel.basic_publish("", self.queue, body)
        self.sent.add(body)

    async def declare(self, _: AsyncConnection, channel: AsyncChannel) -> None:
        await channel.queue_declare(self.queue, durable=True)

    async def open_and_close(self, connection: AsyncConnection, _: AsyncChannel) -> None:
        async with await connection.channel() as channel:
            await channel.basic_qos(prefetch_count=2)

    async def consume(self, connection: AsyncConnection, _: AsyncChannel) -> None:
        channel = await connection.channel()
        try:
            async with channel.consume(self.queue) as messages:
                for _nth in range(3):
                    await (await anext(messages)).nack()
        finally:
            await channel.close()

    async def transact(self, connection: AsyncConnection, _: AsyncChannel) -> None:
        bodies = [str(self.rng.random()).encode() for _ in range(3)]
        channel = await connection.channel()
        try:
            await channel.tx_select()
            for body in bodies:
                await channel.basic_publish("", self.queue, body)
            await channel.tx_commit()
            self.sent.update(bodies)
        finally:
            await channel.close()

    async def connect(self, _: AsyncConnection, __: AsyncChannel) -> None:
        connection = self.connection()
        try:
            await connection.connect()
            channel = await connection.channel()
            await channel.queue_declare(self.queue, durable=True)
        except (ConnectFailed, ConnectionLost):
            pass
        finally:
            await connection.close()


@pytest.mark.parametrize("tracks", ["false", "true"])
@pytest.mark.parametrize("seed", range(3))
def test_f53_a_storm_of_cancellations_and_resets(
    rabbit_a: RabbitMQ, unique: str, seed: int, tracks: str
) -> None:
    """F53: nothing that was reported is lost, nothing leaks, and the connection goes on."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            storm = Storm(proxy, unique, seed, tracks)
            connection = await storm.connection().connect()
            channel = await connection.channel()
            await channel.queue_declare(unique, durable=True)
            workers = [asyncio.create_task(storm.work(connection, channel)) for _ in range(WORKERS)]
            disturber = asyncio.create_task(storm.disturb())
            outcomes = await asyncio.gather(*workers, return_exceptions=True)
            disturber.cancel()
            await asyncio.wait((disturber,))
            proxy.heal()
            failures = [outcome for outcome in outcomes if outcome is not None]
            assert not failures
            assert await connection.flush(60)
            await channel.basic_publish("", unique, b"the last")
            assert await connection.flush(60)
            await connection.close()
            async with AsyncConnection(uri(rabbit_a)) as looking:
                there = await looking.channel()
                found = set(await take_all(there, unique))
                await there.queue_delete(unique)
            assert not storm.sent - found
            assert b"the last" in found

    before = descriptors(), threading.active_count()
    run_clean(main(), 240)
    assert wait_until(lambda: descriptors() <= before[0] + 2)  # the monitor's, of the first one
    assert wait_until(lambda: threading.active_count() <= before[1] + 2)
