"""AsyncConnection consumes while its brokers are killed and cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from understudy.duplicates import DuplicateWindow
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
)
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean
from understudy.testing.frames import BASIC_CONSUME, QUEUE_DECLARE
from understudy.testing.pika_async_lab import (
    PATIENCE,
    Told,
    noticed,
    uri,
)

pytestmark = pytest.mark.integration

QUEUE_DECLARE_OK = (50, 11)
BASIC_CONSUME_OK = (60, 21)


def test_an_iterator_goes_on_across_a_kill(rabbits: tuple[RabbitMQ, RabbitMQ], unique: str) -> None:
    """F19, F21, F23: queue, qos and consumer are there again; tags rise; late acks are dropped."""
    a, b = rabbits

    async def main() -> None:
        async with AsyncConnection(uri(a, b)) as connection:
            channel = await connection.channel()
            await channel.basic_qos(prefetch_count=3)
            queue = (await channel.queue_declare("", exclusive=True)).method.queue
            await channel.exchange_declare(unique, "fanout", auto_delete=True)
            await channel.queue_bind(queue, unique)
            for number in range(10):
                await channel.basic_publish(unique, "", str(number))
            async with channel.consume(queue) as messages:
                held = [await anext(messages) for _ in range(3)]
                await held[0].ack()
                await asyncio.to_thread(a.kill)
                for number in range(10, 20):
                    await channel.basic_publish(unique, "", str(number))
                for message in held[1:]:
                    await message.ack()  # of the broker that is gone
                got = []
                tags = [message.delivery_tag for message in held]
                async for message in messages:
                    got.append(int(message.body))
                    tags.append(message.delivery_tag)
                    await message.ack()
                    if message.body == b"19":
                        break
            assert tags == sorted(set(tags))
            assert [number for number in got if number >= 10] == list(range(10, 20))
            assert connection.stale_acks == 2

    run_clean(main(), PATIENCE * 2)


def test_an_iterator_that_was_cancelled_while_it_began_can_be_used_again(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F53: whether its request was written or not."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)
                for fault, heal in ((proxy.black_hole, proxy.reset), (proxy.refuse, proxy.reset)):
                    messages = channel.consume(unique)
                    fault()
                    if fault == proxy.refuse:
                        await noticed(connection, proxy.reset)
                    for _ in range(3):
                        with pytest.raises(asyncio.TimeoutError):
                            await asyncio.wait_for(anext(messages), 0.05)
                    proxy.heal(drop=True)
                    heal()
                    await channel.basic_publish("", unique, b"through")
                    message = await anext(messages)
                    assert message.body == b"through"
                    await message.ack()
                    await messages.cancel()

    run_clean(main())


def test_everything_is_processed_through_many_drops(rabbit_a: RabbitMQ, unique: str) -> None:
    """F20, F21: publisher and consumer on one proxy, dropped again and again."""
    drops, count = 12, 600
    told = Told()
    processed: Counter[int] = Counter()

    async def consume(channel: AsyncChannel, window: DuplicateWindow) -> None:
        async for message in channel.consume(unique):
            async with window.processing(message) as is_new:
                if is_new:
                    processed[int(message.body)] += 1
            with contextlib.suppress(ValueError):
                await message.ack()
            if len(processed) == count:
                return

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            places = uri(proxy, initialReconnectDelay=0)
            async with AsyncConnection(places, on_event=told.all.append) as connection:
                publishing, consuming = await connection.channel(), await connection.channel()
                await publishing.queue_declare(unique, durable=True)
                await consuming.basic_qos(prefetch_count=20)
                consumer = asyncio.create_task(consume(consuming, DuplicateWindow()))
                for drop in range(drops):
                    numbers = range(drop * count // drops, (drop + 1) * count // drops)
                    sends = [
                        asyncio.create_task(publishing.basic_publish("", unique, str(number)))
                        for number in numbers
                    ]
                    await asyncio.sleep(0.01 * (drop % 3))
                    proxy.reset()
                    await asyncio.gather(*sends)
                await asyncio.wait_for(consumer, PATIENCE)
                await publishing.queue_delete(unique)

    run_clean(main(), PATIENCE * 2)
    assert sorted(processed) == list(range(count))
    assert set(processed.values()) == {1}
    assert told.names.count("Interrupted") == told.names.count("Resumed")


@pytest.mark.parametrize(
    ("method", "direction"),
    [
        (QUEUE_DECLARE, "up"),
        (QUEUE_DECLARE_OK, "down"),
        (BASIC_CONSUME, "up"),
        (BASIC_CONSUME_OK, "down"),
    ],
)
def test_a_cut_in_a_call_or_while_restoring_is_just_another_loss(
    rabbit_a: RabbitMQ, unique: str, method: tuple[int, int], direction: str
) -> None:
    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                cut = proxy.cut_on(method, direction=direction, times=3)  # type: ignore[arg-type]
                await channel.queue_declare(unique, exclusive=True)
                async with channel.consume(unique) as messages:
                    await channel.basic_publish("", unique, b"through")
                    assert (await anext(messages)).body == b"through"
                    assert cut.fired == 3

    run_clean(main())
