"""AsyncConnection over hundreds of failovers: nothing lost, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter

import pytest

from understudy.pika import AsyncChannel, AsyncConnection
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

WARM_UP, FAILOVERS = 20, 200
SENDS = 10  # by as many coroutines, between two failovers


def held() -> dict[str, int]:
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
    }


def test_two_hundred_failovers_lose_nothing_and_leave_nothing(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F20, F21, F41: a consumer, a transaction and publishers, cut at any moment."""
    got: Counter[bytes] = Counter()
    counts: list[dict[str, int]] = []

    async def consume(channel: AsyncChannel) -> None:
        async for message in channel.consume(unique):
            got[message.body] += 1
            await message.ack()

    async def fail_over(proxy: FaultProxy, channel: AsyncChannel, times: int, name: str) -> None:
        for number in range(times):
            bodies = [f"{name}-{number}-{part}" for part in range(SENDS)]
            sends = [asyncio.create_task(channel.basic_publish("", unique, b)) for b in bodies]
            await asyncio.sleep(number % 5 / 500)
            proxy.reset()
            await asyncio.gather(*sends)

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            places = f"failover:(amqp://{proxy.host}:{proxy.port})?initialReconnectDelay=0"
            async with AsyncConnection(f"{places}&timeout=60000") as connection:
                channel, consuming = await connection.channel(), await connection.channel()
                await channel.queue_declare(unique, durable=True)
                await consuming.basic_qos(prefetch_count=20)
                consumer = asyncio.create_task(consume(consuming))
                await fail_over(proxy, channel, WARM_UP, "warm")
                counts.append(held())
                await fail_over(proxy, channel, FAILOVERS, "hot")
                while len(got) < (WARM_UP + FAILOVERS) * SENDS:
                    await asyncio.sleep(0.01)
                counts.append(held())
                consumer.cancel()
                await asyncio.wait((consumer,))
                await channel.queue_delete(unique)

    run_clean(main(), 240)
    before, after = counts
    assert len(got) == (WARM_UP + FAILOVERS) * SENDS
    assert after["descriptors"] <= before["descriptors"] + 2, counts  # one more may be dying
    assert after["threads"] <= before["threads"] + 2, counts
    assert after["objects"] - before["objects"] < 20 * FAILOVERS, counts
