"""What AsyncConnection has of pika's besides: callbacks, recover, new secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika import spec

from understudy.pika import AsyncConnection, Unroutable
from understudy.testing import FaultProxy, ScriptedPeer
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import noticed, uri

pytestmark = pytest.mark.integration


async def until(is_over: Callable[[], bool]) -> None:
    while not is_over():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("tracks", ["false", "true"])
def test_what_comes_back_is_given_to_the_callback(
    rabbit_a: RabbitMQ, unique: str, tracks: str
) -> None:
    """On a new connection too; its call raises as ever, or flush where nobody waits."""
    back: list[tuple[Any, str, str, bytes]] = []

    def on_return(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        assert isinstance(method, spec.Basic.Return)
        back.append((channel, method.routing_key, properties.message_id, body))

    async def send(channel: Any, name: str) -> None:
        properties = pika.BasicProperties(message_id=name)
        await channel.basic_publish("", unique, name, properties, mandatory=True)
        await channel.flush()

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, trackMessages=tracks)) as connection:
                channel = await connection.channel()
                channel.add_on_return_callback(on_return)
                with pytest.raises(Unroutable):
                    await send(channel, "first")
                await noticed(connection, proxy.reset)
                with pytest.raises(Unroutable):
                    await send(channel, "second")
                await until(lambda: len(back) == 2)
                names = ("first", "second")
                assert back == [(channel, unique, name, name.encode()) for name in names]

    run_clean(main())


def test_what_comes_back_of_a_transaction_is_given_to_the_callback(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """There nobody else would hear of it."""
    back: list[bytes] = []

    async def main() -> None:
        async with AsyncConnection(uri(rabbit_a)) as connection:
            channel = await connection.channel()
            channel.add_on_return_callback(lambda *given: back.append(given[3]))
            await channel.tx_select()
            await channel.basic_publish("", unique, b"nobody's", mandatory=True)
            await channel.tx_commit()
            await until(lambda: back == [b"nobody's"])

    run_clean(main())


def test_callbacks_hear_of_a_broker_that_blocks() -> None:
    """An alarm; its end; and one that ends with its connection."""
    told: list[tuple[Any, str]] = []

    async def main() -> None:
        with ScriptedPeer() as peer:
            async with AsyncConnection(uri(peer)) as connection:
                name = lambda frame: type(frame.method).__name__  # noqa: E731
                add_blocked = connection.add_on_connection_blocked_callback
                add_unblocked = connection.add_on_connection_unblocked_callback
                add_blocked(lambda given, frame: told.append((given, frame.method.reason)))
                add_unblocked(lambda given, frame: told.append((given, name(frame))))
                peer.block("low on memory")
                await until(lambda: len(told) == 1)
                peer.unblock()
                await until(lambda: len(told) == 2)
                peer.block("low on disk")
                await until(lambda: len(told) == 3)
                peer.history[-1].reset()
                await until(lambda: len(told) == 5)  # the next connection is blocked as well
                reasons = ["low on memory", "Unblocked", "low on disk", "Unblocked", "low on disk"]
                assert told == [(connection, reason) for reason in reasons]

    run_clean(main())


def test_a_broker_that_blocks_from_the_beginning_is_noticed() -> None:
    """Its word may come in one read with the end of the handshake, or later."""
    told: list[str] = []

    async def main() -> None:
        with ScriptedPeer() as peer:
            peer.block("low on disk")
            for number in range(20):
                connection = AsyncConnection(uri(peer))
                connection.add_on_connection_blocked_callback(
                    lambda _, frame: told.append(frame.method.reason)
                )
                async with connection:
                    await until(lambda: len(told) > number)  # noqa: B023

    run_clean(main())
    assert told == ["low on disk"] * 20


def test_recover_has_what_was_not_acknowledged_come_again(rabbit_a: RabbitMQ, unique: str) -> None:
    """Each message once: what lay in the buffer as well is forgotten there."""

    async def main() -> None:
        async with AsyncConnection(uri(rabbit_a)) as connection:
            channel = await connection.channel()
            await channel.queue_declare(unique, exclusive=True)
            for number in range(4):
                await channel.basic_publish("", unique, str(number))
            async with channel.consume(unique) as messages:
                taken = await anext(messages)
                await until(lambda: len(messages._messages) == 3)
                await channel.basic_recover(requeue=True)
                with pytest.raises(ValueError, match="does not wait"):
                    await taken.ack()
                again = []
                for _ in range(4):
                    message = await anext(messages)
                    assert message.is_redelivered
                    again.append(message.body)
                    await message.ack()
                assert sorted(again) == [b"0", b"1", b"2", b"3"]
            assert await channel.basic_get(unique) is None

    run_clean(main())


def test_a_new_secret_is_told_and_used_for_the_next_connection(rabbit_a: RabbitMQ) -> None:
    """RabbitMQ answers it also where passwords do not expire. Several at once are answered."""
    user = "renewing"
    rabbit_a.ctl("add_user", user, "old")
    rabbit_a.ctl("set_permissions", user, ".*", ".*", ".*")

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            where = f"failover:(amqp://{user}:old@{proxy.host}:{proxy.port})?timeout=20000"
            async with AsyncConnection(where) as connection:
                await asyncio.gather(*(connection.update_secret("new", "due") for _ in range(3)))
                rabbit_a.ctl("change_password", user, "new")
                await noticed(connection, proxy.reset)
                await connection.channel()

    try:
        run_clean(main())
    finally:
        rabbit_a.ctl("delete_user", user)


def test_what_rabbitmq_does_not_do_is_raised_by_its_call(rabbit_a: RabbitMQ, unique: str) -> None:
    """It closes the whole connection over a recover without requeue."""

    async def main() -> None:
        async with AsyncConnection(uri(rabbit_a, initialReconnectDelay=0)) as connection:
            channel = await connection.channel()
            with pytest.raises(pika.exceptions.ConnectionClosedByBroker):
                await channel.basic_recover(requeue=False)
            await channel.queue_declare(unique, exclusive=True)

    run_clean(main())
