"""AsyncConnection consumes: from a broker that lives, and while they are killed and cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from pika import exceptions

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
    with_channel,
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
            async with AsyncConnection(places, on_event=told.add) as connection:
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


def test_consuming_as_an_iterator(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        await channel.basic_qos(prefetch_count=5)
        for number in range(20):
            await channel.basic_publish("", unique, str(number))
        taken = []
        async with channel.consume(unique) as messages:
            async for message in messages:
                taken.append(int(message.body))
                await message.ack()
                if len(taken) == 10:
                    break
        rest = []
        async for message in channel.consume(unique, auto_ack=True):  # left without a block
            rest.append(int(message.body))
            if len(rest) == 10:
                break
        assert (taken, sorted(rest)) == (list(range(10)), list(range(10, 20)))

    with_channel(rabbit_a, work)


def test_a_cancelled_consumer_with_auto_ack_still_gives_out_what_has_come(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        for number in range(10):
            await channel.basic_publish("", unique, str(number))
        async with channel.consume(unique, auto_ack=True) as messages:
            first = await anext(messages)
        rest = [message.body async for message in messages]
        left = (await channel.queue_declare(unique, passive=True)).method.message_count
        assert first.body == b"0"
        assert 1 + len(rest) + left == 10

    with_channel(rabbit_a, work)


def test_a_consumer_whose_queue_is_deleted_ends_with_pikas_error(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique)
        await channel.basic_publish("", unique, b"last")
        async with channel.consume(unique) as messages:
            assert (await anext(messages)).body == b"last"
            await channel.queue_delete(unique)
            with pytest.raises(exceptions.ConsumerCancelled):
                await anext(messages)

    with_channel(rabbit_a, work)


def test_closing_the_channel_ends_its_iterators(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> list[Any]:
        await channel.queue_declare(unique, exclusive=True)

        async def consume() -> list[Any]:
            return [message async for message in channel.consume(unique)]

        consuming = asyncio.create_task(consume())
        await asyncio.sleep(0.05)  # it waits for a message, or is about to: both must end
        await channel.close()
        return await consuming

    assert with_channel(rabbit_a, work) == []


def test_closing_the_channel_ends_whatever_waits_on_it(rabbit_a: RabbitMQ, unique: str) -> None:
    """With a broker that does not answer, and no timeout."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, timeout=-1)) as connection:
                channel, other = await connection.channel(), await connection.channel()
                await channel.queue_declare(unique, auto_delete=True)
                await other.tx_select()
                await other.basic_publish("", unique, b"in doubt")
                begun = channel.consume(unique)
                receiving = asyncio.create_task(anext(begun))
                await asyncio.sleep(0.05)
                proxy.black_hole()
                calls = [
                    asyncio.create_task(call)
                    for call in (
                        channel.basic_publish("", unique, b""),
                        channel.queue_declare(unique, auto_delete=True),
                        channel.basic_get(unique),
                        anext(channel.consume(unique)),
                        begun.cancel(),
                        other.tx_commit(),
                        other.basic_publish("", unique, b"after"),
                        other.tx_rollback(),
                    )
                ]
                await asyncio.sleep(0.05)
                await asyncio.gather(channel.close(), other.close())
                outcomes = await asyncio.gather(*calls, receiving, return_exceptions=True)
                assert [isinstance(o, exceptions.AMQPError) for o in outcomes] == [
                    True, True, True, True, False, True, True, True, False,
                ]  # fmt: skip
                assert outcomes[4] is None
                assert isinstance(outcomes[8], StopAsyncIteration)

    run_clean(main())


def test_an_acknowledgement_twice_is_refused_here(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        for _ in range(3):
            await channel.basic_publish("", unique, b"")
        got = [await channel.basic_get(unique) for _ in range(3)]
        assert got[0] is not None
        await got[0].ack()
        with pytest.raises(ValueError, match="does not wait"):
            await got[0].ack()
        assert got[2] is not None
        await got[2].ack()
        for _ in range(2):  # the one in between; then nothing, which is fine
            await channel.basic_ack(0, multiple=True)
        with pytest.raises(ValueError, match="does not wait"):
            await channel.basic_ack(999)
        with pytest.raises(ValueError, match="begin with 1"):
            await channel.basic_ack(0)
        assert await channel.basic_get(unique) is None

    with_channel(rabbit_a, work)
