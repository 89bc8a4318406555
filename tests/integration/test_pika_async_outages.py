"""AsyncConnection while no broker answers: who waits, for how long, and who is told."""

from __future__ import annotations

import asyncio
import time

import pika
import pytest
from pika import exceptions

from understudy.core.events import MessageFailed
from understudy.pika import (
    AsyncConnection,
    ConnectFailed,
    SendTimeout,
)
from understudy.testing import FaultProxy, ScriptedPeer
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import (
    PATIENCE,
    Told,
    in_order,
    noticed,
    take_all,
    uri,
)

pytestmark = pytest.mark.integration


def test_a_broker_that_falls_silent_is_left_by_everybody_who_waits(
    rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    """A black hole, with a send, a declaration and a consumer waiting."""
    a, b = rabbits

    async def main() -> None:
        with FaultProxy(a.host, a.port) as proxy:
            async with AsyncConnection(uri(proxy, b, heartbeat=1000)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                async with channel.consume(unique) as messages:
                    proxy.black_hole()
                    publishing = channel.basic_publish("", unique, b"through")
                    declaring = channel.queue_declare(f"{unique}-2", exclusive=True)
                    message, _, _ = await asyncio.gather(anext(messages), publishing, declaring)
                    assert message.body == b"through"
                    await message.ack()
                await channel.queue_delete(unique)

    run_clean(main(), PATIENCE * 2)


def test_the_loop_may_be_busy_for_longer_than_the_broker_waits(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """Heartbeats go on, and what the broker says meanwhile counts as a sign of life."""
    told = Told()

    async def main() -> None:
        connection = AsyncConnection(uri(rabbit_a, heartbeat=1000), on_event=told.add)
        async with connection:
            channel = await connection.channel()
            await channel.queue_declare(unique, exclusive=True)
            time.sleep(4.0)  # RabbitMQ gives up after 2 s without a sign of life
            await channel.basic_publish("", unique, b"still there")

    run_clean(main())
    assert told.names == ["Connected"]


def test_fire_and_forget_waits_for_room_in_the_socket(rabbit_a: RabbitMQ, unique: str) -> None:
    """More than any buffer holds, with nobody who reads at first."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, confirms="false")) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)
                proxy.throttle(20_000_000)
                body = b"x" * 1_000_000
                sends = [channel.basic_publish("", unique, body) for _ in range(12)]
                await asyncio.gather(*sends)
                messages = channel.consume(unique, auto_ack=True)
                for _ in range(12):
                    assert (await anext(messages)).body == body

    run_clean(main())


def test_a_broker_that_blocks_is_told_of_and_left_in_time(rabbit_a: RabbitMQ, unique: str) -> None:
    told = Told()

    async def main() -> None:
        with ScriptedPeer() as peer:
            places = uri(peer, rabbit_a, blockedTimeout=200, heartbeat=1000)
            async with AsyncConnection(places, on_event=told.add) as connection:
                channel = await connection.channel()
                peer.block("disk alarm")
                while "Resumed" not in told.names:
                    await asyncio.sleep(0.01)
                await channel.queue_declare(unique, exclusive=True)

    run_clean(main())
    assert told.names[:4] == ["Connected", "Blocked", "Interrupted", "Unblocked"]
    assert "blockedTimeout" in told.all[2].reason


def test_sends_wait_for_a_broker_and_may_be_cancelled_meanwhile(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F14, F15, F53: one waits and is sent, one is cancelled, one runs out of time: never sent."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            places = uri(proxy, timeout=4000, maxReconnectDelay=50)
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                proxy.refuse()
                await noticed(connection, proxy.reset)
                out_of_time = asyncio.create_task(channel.basic_publish("", unique, b"1"))
                with pytest.raises(SendTimeout, match="never sent") as late:
                    await out_of_time
                assert not late.value.written
                assert late.value.attempts
                waiting = asyncio.create_task(channel.basic_publish("", unique, b"2"))
                cancelled = asyncio.create_task(channel.basic_publish("", unique, b"3"))
                await asyncio.sleep(0.1)
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
                proxy.heal()
                await waiting
                assert await take_all(channel, unique) == [b"2"]
                await channel.queue_delete(unique)

    run_clean(main())


def test_giving_up_tells_everybody_and_the_next_call_begins_anew(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F07, F52."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            places = uri(proxy, maxReconnectAttempts=2, timeout=-1)
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                messages = channel.consume(unique)
                receiving = asyncio.create_task(anext(messages))
                await asyncio.sleep(0.1)
                proxy.refuse()
                proxy.reset()
                calls = [
                    receiving,
                    channel.basic_publish("", unique, b"lost"),
                    channel.queue_declare(unique, durable=True),
                ]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [ConnectFailed] * 3
                proxy.heal()
                await channel.basic_publish("", unique, b"sent")
                assert (await anext(messages)).body == b"sent"
                await channel.queue_delete(unique)

    run_clean(main())


def test_giving_up_tells_all_who_wait_for_room_and_keeps_what_is_tracked(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            tracked = {"trackMessages": "true", "maxCacheSize": 1, "maxReconnectAttempts": 2}
            async with AsyncConnection(uri(proxy, timeout=-1, **tracked)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                proxy.refuse()
                await noticed(connection, proxy.reset)
                sends = [channel.basic_publish("", unique, str(n)) for n in range(20)]
                outcomes = await asyncio.gather(*sends, return_exceptions=True)
                assert outcomes[0] is None
                assert {type(outcome) for outcome in outcomes[1:]} == {ConnectFailed}
                proxy.heal()
                await channel.basic_publish("", unique, b"20")
                assert await connection.flush(PATIENCE)
                assert in_order(await take_all(channel, unique)) == [0, 20]
                await channel.queue_delete(unique)

    run_clean(main())


def test_closing_is_bounded_whatever_state_the_broker_is_in(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F39, F18; what is tracked and left is told with its id."""
    told = Told()

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            silent = AsyncConnection(
                uri(proxy, timeout=-1, trackMessages="true", closeTimeout=200),
                on_event=told.add,
            )
            await silent.connect()
            channel = await silent.channel()
            waiting = asyncio.create_task(anext(channel.consume(unique)))
            await asyncio.sleep(0.05)
            proxy.black_hole()
            await channel.basic_publish("", unique, b"", pika.BasicProperties(message_id="left"))
            await asyncio.wait_for(silent.close(), PATIENCE)
            with pytest.raises((exceptions.AMQPError, StopAsyncIteration)):
                await waiting
            proxy.heal(drop=True)
            gone = AsyncConnection(uri(proxy, timeout=-1))
            await gone.connect()
            channel = await gone.channel()
            proxy.refuse()
            proxy.reset()
            sending = asyncio.create_task(channel.basic_publish("", unique, b""))
            await asyncio.sleep(0.05)
            await asyncio.wait_for(gone.close(), PATIENCE)
            with pytest.raises(exceptions.AMQPConnectionError):
                await sending

    run_clean(main())
    failed = [event for event in told.all if isinstance(event, MessageFailed)]
    assert [event.message_id for event in failed] == ["left"]
