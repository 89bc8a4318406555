"""AsyncConnection while its brokers are killed and cut off: what arrives, and where it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest
from pika import exceptions

from understudy.duplicates import message_id
from understudy.failover.message_ids import RESEND_HEADER
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
)
from understudy.testing import FaultProxy
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
        async with AsyncConnection(places, on_event=told.add) as connection:
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
            async with AsyncConnection(places, on_event=told.add) as connection:
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
            places = f"failover:({member},{last})?randomize=false&connectTimeout=1500"
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)

    run_clean(main())
