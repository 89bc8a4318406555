"""AsyncConnection with a healthy broker: its calls, its refusals, cancelling, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pika
import pytest
from pika import exceptions

from understudy.duplicates import message_id
from understudy.errors import ConfigurationError, Refused
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
    ConnectFailed,
    SendTimeout,
    Unroutable,
)
from understudy.testing import FaultProxy, ScriptedPeer, wait_until
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.clean_loop import run_clean

pytestmark = pytest.mark.integration

Place = RabbitMQ | FaultProxy | ScriptedPeer
PATIENCE = 20.0  # s for what takes milliseconds on a healthy machine


def uri(*places: Place, **options: object) -> str:
    members = ",".join(f"amqp://guest:guest@{place.host}:{place.port}" for place in places)
    given = {"timeout": 20000, "heartbeat": 0, "randomize": "false", **options}
    return f"failover:({members})?" + "&".join(f"{k}={v}" for k, v in given.items())


def with_channel(
    place: Place, work: Callable[[AsyncChannel], Awaitable[Any]], **options: object
) -> Any:
    """Run ``work`` with a channel of its own."""

    async def main() -> Any:
        async with AsyncConnection(uri(place, **options)) as connection:
            return await work(await connection.channel())

    return run_clean(main())


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
            async with AsyncConnection(uri(proxy, timeout=300)) as connection:
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
