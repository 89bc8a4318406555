"""The life of an AsyncConnection: connecting, calls that are cancelled or late, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from pika import exceptions

from understudy.errors import ConfigurationError
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
    ConnectFailed,
    SendTimeout,
)
from understudy.testing import FaultProxy, wait_until
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import PATIENCE, uri, with_channel

pytestmark = pytest.mark.integration


Call = Callable[[AsyncChannel, str], Coroutine[Any, Any, Any]]


async def _consume_one(channel: AsyncChannel, queue: str) -> None:
    async with channel.consume(queue) as messages:
        await anext(messages)


CALLS: dict[str, Call] = {
    "publish": lambda channel, queue: channel.basic_publish("", queue, b"published"),
    "declare": lambda channel, queue: channel.queue_declare(queue, exclusive=True),
    "get": lambda channel, queue: channel.basic_get(queue),
    "qos": lambda channel, queue: channel.basic_qos(prefetch_count=3),
    "consume": _consume_one,
    "purge": lambda channel, queue: channel.queue_purge(queue),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_may_be_cancelled_at_each_of_its_steps(
    rabbit_a: RabbitMQ, unique: str, name: str
) -> None:
    """F53: the link is the same, and nothing of the queue is withheld by a call that is gone."""

    async def cancelled_after(steps: int, call: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(call)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def work(channel: AsyncChannel) -> None:
        await channel.queue_declare(unique, exclusive=True)
        wire = channel._session.wire
        for steps in range(12):
            await channel.basic_publish("", unique, b"waits")
            await cancelled_after(steps, CALLS[name](channel, unique))
        assert channel._session.wire is wire
        await channel.queue_purge(unique)
        await channel.basic_publish("", unique, b"last")
        async with channel.consume(unique) as messages:
            async for message in messages:
                await message.ack()
                if message.body == b"last":
                    break
        left = await channel.queue_declare(unique, passive=True)
        assert left.method.message_count == 0

    with_channel(rabbit_a, work)


def test_a_call_that_gets_no_answer_ends_in_time_and_the_connection_goes_on(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F15: for a send in doubt, a call, and a wait for a channel; no heartbeat helps here."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, timeout=1500)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, auto_delete=True)
                proxy.black_hole()
                with pytest.raises(SendTimeout) as late:
                    await channel.basic_publish("", unique, b"in doubt")
                assert late.value.written
                assert late.value.message_id is not None
                with pytest.raises(SendTimeout):
                    await channel.queue_declare(unique)
                with pytest.raises(SendTimeout):
                    await connection.channel()
                proxy.heal(drop=True)
                await asyncio.wait_for(until_sent(channel, unique), PATIENCE)

    run_clean(main())


async def until_sent(channel: AsyncChannel, queue: str) -> None:
    """Publish until it succeeds, through whatever is left of an outage."""
    while True:
        try:
            return await channel.basic_publish("", queue, b"sent")
        except SendTimeout:
            continue


def test_connecting_fails_in_time_and_leaves_nothing() -> None:
    """F07, F16."""

    async def main() -> None:
        nowhere = f"failover:(amqp://127.0.0.1:{free_port()})"
        with pytest.raises(ConnectFailed, match="within timeout=200") as failed:
            await AsyncConnection(f"{nowhere}?timeout=200").connect()
        assert failed.value.attempts
        with pytest.raises(ConnectFailed):
            await AsyncConnection(f"{nowhere}?startupMaxReconnectAttempts=2").connect()
        connecting = asyncio.create_task(AsyncConnection(nowhere).connect())
        await asyncio.sleep(0.05)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    run_clean(main())


def test_use_before_and_after_its_time_is_refused(rabbit_a: RabbitMQ) -> None:
    async def main() -> None:
        connection = AsyncConnection(uri(rabbit_a))
        with pytest.raises(exceptions.ConnectionWrongStateError, match="connect"):
            await connection.channel()
        async with connection:
            assert connection.is_open
            channel = await connection.channel()
        assert connection.is_closed
        await connection.close()
        with pytest.raises(exceptions.AMQPConnectionError, match="connection is closed"):
            await channel.basic_publish("", "q", b"")
        with pytest.raises(exceptions.AMQPConnectionError, match="connection is closed"):
            await connection.channel()
        with pytest.raises(exceptions.AMQPConnectionError, match="connection is closed"):
            await connection.connect()

    run_clean(main())


@pytest.mark.parametrize("given", ["failover:(http://a)", "failover:(amqp://a)?bogus=1", []])
def test_what_cannot_be_connected_to_is_refused_at_once(given: Any) -> None:
    with pytest.raises(ConfigurationError):
        AsyncConnection(given)


def test_secrets_do_not_show(rabbit_a: RabbitMQ) -> None:
    connection = AsyncConnection(f"failover:(amqp://user:geheim@{rabbit_a.host}:{rabbit_a.port})")
    assert "geheim" not in repr(connection)


@contextlib.asynccontextmanager
async def tls_front(broker: RabbitMQ, certificate: Path) -> AsyncIterator[int]:
    """The port of a broker that speaks TLS, for `localhost`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_broker = await asyncio.open_connection(broker.host, broker.port)
        await asyncio.gather(copy(reader, to_broker), copy(behind, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*(task for task in others if "serve" in repr(task)))


def test_a_member_with_tls_carries_large_messages(
    rabbit_a: RabbitMQ, certificate: Path, unique: str
) -> None:
    async def main() -> None:
        async with tls_front(rabbit_a, certificate) as port:
            member = f"amqps://guest:guest@localhost:{port}"
            good = f"failover:({member}?cafile={certificate.with_suffix('.crt')})?timeout=20000"
            async with AsyncConnection(good) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)
                large = os.urandom(3_000_000)
                await asyncio.gather(*(channel.basic_publish("", unique, large) for _ in range(3)))
                async with channel.consume(unique) as messages:
                    assert [(await anext(messages)).body == large for _ in range(3)] == [True] * 3

    run_clean(main())


def test_a_loop_that_ends_takes_its_connections_with_it(rabbit_a: RabbitMQ, unique: str) -> None:
    """Nobody closes them, as after Ctrl-C."""

    async def main() -> None:
        for _ in range(3):
            connection = await AsyncConnection(uri(rabbit_a, backup="true")).connect()
            channel = await connection.channel()
            await channel.queue_declare(unique, auto_delete=True)
            asyncio.get_running_loop().create_task(channel.consume(unique).__anext__())
        await asyncio.sleep(0)

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    asyncio.run(main())
    before = count()
    for _ in range(5):
        asyncio.run(main())
    assert wait_until(lambda: count()[0] <= before[0] and count()[1] <= before[1])


def test_no_descriptor_and_no_thread_is_left(rabbit_a: RabbitMQ, unique: str) -> None:
    """F41, over connections that are used, dropped and closed."""

    async def once() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, backup="true")) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                for _ in range(5):
                    await channel.basic_publish("", unique, b"")
                    proxy.reset()
                await channel.queue_delete(unique)

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    run_clean(once())
    before = count()
    for _ in range(10):
        run_clean(once())
    assert wait_until(lambda: count()[0] <= before[0] and count()[1] <= before[1]), (
        f"{before} became {count()}: {threading.enumerate()}"
    )
