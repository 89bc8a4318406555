"""AsyncConnection with a healthy broker: its calls, and what is refused."""

from __future__ import annotations

import asyncio
import os

import pika
import pytest
from pika import exceptions

from understudy.duplicates import message_id
from understudy.errors import Refused
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
    Unroutable,
)
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import PATIENCE, uri, with_channel

pytestmark = pytest.mark.integration


def test_publish_get_and_acknowledge(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        declared = await channel.queue_declare(unique, auto_delete=True)
        assert declared.method.queue == unique
        assert await channel.basic_get(unique) is None
        for number in range(3):
            await channel.basic_publish("", unique, str(number))
        first = await channel.basic_get(unique)
        assert first is not None
        assert (first.body, first.method.message_count) == (b"0", 2)
        assert first.properties.delivery_mode == 2
        assert message_id(first) is not None
        await first.nack()
        again = await channel.basic_get(unique)
        assert again is not None
        assert again.is_redelivered
        await again.ack()
        assert (await channel.queue_purge(unique)).method.message_count == 2

    with_channel(rabbit_a, work)


def test_a_topology_and_its_end(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        source, target = f"{unique}-source", f"{unique}-target"
        await channel.exchange_declare(source, "topic", auto_delete=True)
        await channel.exchange_declare(target, "fanout")
        await channel.exchange_bind(target, source, "a.*")
        queue = (await channel.queue_declare("", exclusive=True)).method.queue
        await channel.queue_bind(queue, target)
        await channel.basic_publish(source, "a.b", b"through", mandatory=True)
        got = await channel.basic_get(queue, auto_ack=True)
        assert got is not None
        await channel.queue_unbind(queue, target)
        with pytest.raises(Unroutable) as unroutable:
            await channel.basic_publish(source, "a.b", b"nowhere", mandatory=True)
        assert unroutable.value.messages[0].body == b"nowhere"
        await channel.exchange_unbind(target, source, "a.*")
        await channel.exchange_delete(target)
        await channel.queue_delete(queue)

    with_channel(rabbit_a, work)


def test_refusals_are_raised_by_their_calls_and_the_channel_goes_on(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """A consumer on the same channel goes on as well."""

    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        async with channel.consume(unique) as messages:
            with pytest.raises(exceptions.ChannelClosedByBroker, match="no queue"):
                await channel.queue_declare(f"{unique}-missing", passive=True)
            with pytest.raises(exceptions.ChannelClosedByBroker, match="inequivalent"):
                await channel.queue_declare(unique, exclusive=True, arguments={"x-max-length": 5})
            with pytest.raises(Refused, match="no exchange") as refused:
                await channel.basic_publish(f"{unique}-missing", "key", b"")
            assert refused.value.message_id is not None
            assert isinstance(refused.value, exceptions.ChannelClosedByBroker)
            with pytest.raises(exceptions.ChannelClosedByBroker, match="no queue"):
                await channel.consume(f"{unique}-missing").__aenter__()
            await channel.basic_publish("", unique, b"fine")
            assert (await anext(messages)).body == b"fine"

    with_channel(rabbit_a, work)


def test_one_refused_message_among_many_fails_alone(rabbit_a: RabbitMQ, unique: str) -> None:
    """They are all in flight when the broker closes the channel."""

    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        sends = [
            channel.basic_publish(f"{unique}-missing" if n == 20 else "", unique, str(n))
            for n in range(50)
        ]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [20]
        assert isinstance(outcomes[20], Refused)
        bodies = set()
        while (message := await channel.basic_get(unique, auto_ack=True)) is not None:
            bodies.add(int(message.body))
        assert bodies == set(range(50)) - {20}

    with_channel(rabbit_a, work)


def test_properties_above_the_frame_are_refused_without_a_loss(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        large = pika.BasicProperties(headers={"large": "x" * 200_000})
        with pytest.raises(Refused, match="properties take"):
            await channel.basic_publish("", unique, b"", large)
        await channel.basic_publish("", unique, os.urandom(300_000))
        got = await channel.basic_get(unique)
        assert got is not None
        assert len(got.body) == 300_000

    with_channel(rabbit_a, work)


def test_fire_and_forget(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        for number in range(100):
            await channel.basic_publish("", unique, str(number))
        messages = channel.consume(unique, auto_ack=True)
        assert [(await anext(messages)).body for _ in range(100)] == [
            str(number).encode() for number in range(100)
        ]

    with_channel(rabbit_a, work, confirms="false")


def test_tracked_messages_are_flushed_and_their_refusals_told(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    async def main() -> None:
        async with AsyncConnection(uri(rabbit_a, trackMessages="true")) as connection:
            channel = await connection.channel()
            await channel.queue_declare(unique, auto_delete=True)
            for number in range(500):  # more than maxCacheSize holds
                await channel.basic_publish("", unique, str(number).encode() + b" " * 1000)
            assert await connection.flush(PATIENCE)
            passive = await channel.queue_declare(unique, passive=True)
            assert passive.method.message_count == 500
            await channel.basic_publish("", f"{unique}-missing", b"", mandatory=True)
            with pytest.raises(Unroutable):
                await connection.flush(PATIENCE)
            await channel.basic_publish("", f"{unique}-missing", b"", mandatory=True)
            with pytest.raises(Unroutable):
                await connection.close()

    run_clean(main())


def test_tracked_messages_wait_their_turn_for_room(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        sends = []
        for number in range(200):
            sends.append(asyncio.create_task(channel.basic_publish("", unique, str(number))))
            if number % 20 == 7:
                sends[-1].cancel()
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        assert await channel.flush(PATIENCE)
        sent = [n for n, outcome in enumerate(outcomes) if outcome is None]
        messages = channel.consume(unique, auto_ack=True)
        assert [int((await anext(messages)).body) for _ in sent] == sent

    with_channel(rabbit_a, work, trackMessages="true", maxCacheSize=500)


def test_transactions(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        await channel.tx_select()
        await channel.basic_publish("", unique, b"forgotten")
        await channel.tx_rollback()
        await channel.basic_publish("", unique, b"kept")
        assert await channel.basic_get(unique) is None
        await channel.tx_commit()
        got = await channel.basic_get(unique)
        assert got is not None
        assert got.body == b"kept"
        await got.ack()
        await channel.tx_rollback()
        await got.ack()  # it waits for one again
        await channel.tx_commit()
        await channel.basic_publish(f"{unique}-missing", "key", b"")
        with pytest.raises(exceptions.ChannelClosedByBroker, match="no exchange"):
            await channel.tx_commit()
        await channel.basic_publish("", unique, b"next")
        await channel.tx_commit()
        got = await channel.basic_get(unique)
        assert got is not None
        assert got.body == b"next"

    with_channel(rabbit_a, work)


def test_transactions_and_confirms_exclude_each_other(rabbit_a: RabbitMQ, unique: str) -> None:
    async def work(channel: AsyncChannel) -> None:
        with pytest.raises(exceptions.ChannelWrongStateError, match="tx_select"):
            await channel.tx_commit()
        await channel.basic_publish("", unique, b"")
        with pytest.raises(exceptions.ChannelWrongStateError, match="confirms"):
            await channel.tx_select()

    with_channel(rabbit_a, work)
