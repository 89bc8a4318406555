"""AsyncConnection while its brokers are killed, frozen and cut off."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

import pika
import pytest
from pika import exceptions

from understudy.core.events import MessageFailed
from understudy.duplicates import message_id
from understudy.failover.message_ids import RESEND_HEADER
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
    ConnectFailed,
    SendTimeout,
)
from understudy.testing import FaultProxy, ScriptedPeer
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.clean_loop import run_clean
from understudy.testing.frames import BASIC_ACK
from understudy.testing.pika_async_lab import (
    PATIENCE,
    Told,
    in_order,
    noticed,
    take_all,
    uri,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("tracked", ["false", "true"])
def test_a_hundred_coroutines_publish_over_a_drop(
    rabbit_a: RabbitMQ, unique: str, tracked: str
) -> None:
    """F28: each gets its own confirm; nothing is lost, and the order is that of the calls."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            places = uri(proxy, trackMessages=tracked, maxCacheSize=10_000_000)
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                cut = proxy.cut_on(BASIC_ACK, 1, direction="down")
                sends = [channel.basic_publish("", unique, str(n)) for n in range(100)]
                await asyncio.gather(*sends)
                assert await connection.flush(PATIENCE)
                assert cut.fired
                bodies = await take_all(channel, unique)
                await channel.queue_delete(unique)
        assert in_order(bodies) == list(range(100))

    run_clean(main())


def test_a_copy_has_the_same_id_and_says_so(rabbit_a: RabbitMQ, unique: str) -> None:
    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                proxy.cut_on(BASIC_ACK, direction="down")
                await channel.basic_publish("", unique, b"in doubt")
                first = await channel.basic_get(unique, auto_ack=True)
                copy = await channel.basic_get(unique, auto_ack=True)
                await channel.queue_delete(unique)
                assert first is not None
                assert copy is not None
                assert message_id(first) == message_id(copy)
                assert RESEND_HEADER not in first.properties.headers
                assert copy.properties.headers[RESEND_HEADER]

    run_clean(main())


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_publishing_goes_on_at_the_next_broker(
    rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, how: str
) -> None:
    """F12, F36, F40: what was confirmed before is on a, all else on b, once or marked."""
    a, b = rabbits
    told = Told()

    async def main() -> None:
        places = uri(a, b, heartbeat=1000, backup="true")
        async with AsyncConnection(places, on_event=told.all.append) as connection:
            channel = await connection.channel()
            await channel.queue_declare(unique, durable=True)
            sent = 0

            async def publish(number: int) -> None:
                nonlocal sent
                await channel.basic_publish("", unique, str(number))
                sent += 1

            await asyncio.gather(*(publish(number) for number in range(50)))
            fail: Callable[[], None] = getattr(a, how)
            sends = [asyncio.create_task(publish(number)) for number in range(50, 100)]
            await asyncio.to_thread(fail)
            await asyncio.gather(*sends)
            await asyncio.gather(*(publish(number) for number in range(100, 150)))
            assert sent == 150
            bodies = await take_all(channel, unique)
            assert set(range(100, 150)) <= set(in_order(bodies))
            assert set(in_order(bodies)) <= set(range(50, 150))
            await channel.queue_delete(unique)

    run_clean(main(), PATIENCE * 2)
    assert told.names.count("Interrupted") == told.names.count("Resumed") == 1
    assert told.names[0] == "Connected"


def test_it_returns_to_its_preferred_broker(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """F42, F44."""
    told = Told()

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as home:
            places = uri(home, rabbit_b, priorityBackup="true")
            async with AsyncConnection(places, on_event=told.all.append) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)
                home.refuse()
                await noticed(connection, home.reset)
                await channel.basic_publish("", unique, b"on b")
                home.heal()
                while told.names.count("Resumed") < 2:
                    await asyncio.sleep(0.01)
                await channel.basic_publish("", unique, b"on a")
                assert await take_all(channel, unique) == [b"on a"]

    run_clean(main())
    assert told.names == ["Connected", "Interrupted", "Resumed", "Interrupted", "Resumed"]


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
        connection = AsyncConnection(uri(rabbit_a, heartbeat=1000), on_event=told.all.append)
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
            async with AsyncConnection(places, on_event=told.all.append) as connection:
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
            places = uri(proxy, timeout=1500, maxReconnectDelay=50)
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
                on_event=told.all.append,
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


def test_cancelling_at_random_through_drops_loses_nothing_else(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F53: whatever is cancelled, the other sends are confirmed and in order; no id is foreign."""
    rng = random.Random(unique)
    confirmed: set[int] = set()
    cancelled: set[int] = set()

    async def main() -> list[bytes]:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, initialReconnectDelay=0)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)

                async def publish(number: int) -> None:
                    await channel.basic_publish("", unique, str(number))
                    confirmed.add(number)

                sends = []
                for number in range(400):
                    sends.append(asyncio.create_task(publish(number)))
                    if rng.random() < 0.3:
                        victim = rng.choice(sends[-20:])
                        asyncio.get_running_loop().call_later(rng.random() / 50, victim.cancel)
                    if rng.random() < 0.03:
                        proxy.reset()
                    await asyncio.sleep(0 if rng.random() < 0.8 else rng.random() / 100)
                outcomes = await asyncio.gather(*sends, return_exceptions=True)
                for number, outcome in enumerate(outcomes):
                    assert outcome is None or isinstance(outcome, asyncio.CancelledError)
                    if outcome is not None:
                        cancelled.add(number)
                bodies = await take_all(channel, unique)
                await channel.queue_delete(unique)
                return bodies

    found = in_order(run_clean(main()))
    assert confirmed <= set(found)
    assert confirmed | cancelled == set(range(400))
    assert [number for number in found if number in confirmed] == sorted(confirmed)


# --- the topology -------------------------------------------------------------------------------


def test_what_no_endpoint_restores_is_the_brokers_own_error(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """A queue is declared otherwise on the other broker."""

    async def main() -> None:
        async with AsyncConnection(uri(rabbit_b)) as other:
            on_b = await other.channel()
            await on_b.queue_declare(unique)
            with FaultProxy(rabbit_a.host, rabbit_a.port) as a:
                await move(on_b, a)

    async def move(on_b: AsyncChannel, a: FaultProxy) -> None:
        async with AsyncConnection(uri(a, rabbit_b, maxReconnectDelay=100)) as connection:
            channel = await connection.channel()
            await channel.queue_declare(unique, auto_delete=True)
            a.refuse()
            await noticed(connection, a.reset)
            with pytest.raises(exceptions.ChannelClosedByBroker, match="inequivalent"):
                await channel.basic_publish("", unique, b"")
            await on_b.queue_delete(unique)
            await channel.basic_publish("", unique, b"now")
            assert await take_all(channel, unique) == [b"now"]
            await channel.queue_delete(unique)

    run_clean(main())


def test_an_exclusive_queue_that_its_dead_connection_still_holds_is_waited_for(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """405: the broker has not noticed yet that the connection in the black hole is dead."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, rabbit_a, heartbeat=1000)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)
                proxy.black_hole()
                await channel.basic_publish("", unique, b"there")
                assert await take_all(channel, unique) == [b"there"]

    run_clean(main(), PATIENCE * 2)


@pytest.mark.parametrize("first", ["nobody", "silent"])
def test_members_that_cannot_be_connected_to_are_passed_over(
    rabbit_a: RabbitMQ, unique: str, first: str
) -> None:
    """F05, F37."""

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            if first == "nobody":
                member = f"amqp://127.0.0.1:{free_port()}"
            else:
                proxy = stack.enter_context(FaultProxy(rabbit_a.host, rabbit_a.port))
                proxy.black_hole()
                member = f"amqp://{proxy.host}:{proxy.port}"
            last = f"amqp://{rabbit_a.host}:{rabbit_a.port}"
            places = f"failover:({member},{last})?randomize=false&connectTimeout=500"
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)

    run_clean(main())
