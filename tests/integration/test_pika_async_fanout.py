"""fanout: with AsyncConnection: one message to several brokers."""

from __future__ import annotations

import asyncio

import pytest

from understudy.errors import ConfigurationError
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
    ConnectFailed,
    SendTimeout,
    Unroutable,
)
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean

pytestmark = pytest.mark.integration

Place = RabbitMQ | FaultProxy


def uri(*places: Place, scheme: str = "fanout", **options: object) -> str:
    members = ",".join(f"amqp://guest:guest@{place.host}:{place.port}" for place in places)
    given = {"timeout": 20000, "heartbeat": 0, "randomize": "false", **options}
    return f"{scheme}:({members})?" + "&".join(f"{k}={v}" for k, v in given.items())


async def take_all(place: Place, queue: str) -> list[bytes]:
    """Everything in a queue of one broker, which is deleted."""
    async with AsyncConnection(uri(place, scheme="failover")) as connection:
        channel = await connection.channel()
        bodies = []
        while (message := await channel.basic_get(queue, auto_ack=True)) is not None:
            bodies.append(message.body)
        await channel.queue_delete(queue)
        return bodies


async def declare(channel: AsyncChannel, name: str) -> None:
    await channel.exchange_declare(name, "fanout", auto_delete=True)
    await channel.queue_declare(name)
    await channel.queue_bind(name, name)


@pytest.mark.parametrize("queues_too", ["false", "true"])
def test_a_message_goes_to_all_and_a_queue_message_where_asked_for(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, queues_too: str
) -> None:
    """D09."""

    async def main() -> None:
        places = uri(rabbit_a, rabbit_b, fanOutQueues=queues_too)
        async with AsyncConnection(places) as connection:
            channel = await connection.channel()
            await declare(channel, unique)
            for number in range(20):
                await channel.basic_publish(unique, "", str(number))
            await channel.basic_publish("", unique, b"to the queue")
        expected = [str(number).encode() for number in range(20)]
        both = [*expected, b"to the queue"]
        assert await take_all(rabbit_a, unique) == both
        assert await take_all(rabbit_b, unique) == (both if queues_too == "true" else expected)

    run_clean(main())


def test_a_private_queue_is_on_the_consumers_broker_only(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """Publish and subscribe in one program: elsewhere nobody would empty it."""

    async def main() -> None:
        async with AsyncConnection(uri(rabbit_a, rabbit_b)) as connection:
            channel = await connection.channel()
            await declare(channel, unique)
            mine = (await channel.queue_declare("", exclusive=True)).method.queue
            await channel.queue_bind(mine, unique)
            await channel.basic_publish(unique, "", b"x")
            found = await channel.basic_get(mine, auto_ack=True)
            assert found is not None
            assert found.body == b"x"
        assert await take_all(rabbit_a, unique) == await take_all(rabbit_b, unique) == [b"x"]

    run_clean(main())


def test_a_send_waits_for_enough_brokers(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """D10, F53: it waits, is cancelled, runs out of time, and returns when one is back."""

    async def main() -> None:
        with FaultProxy(rabbit_b.host, rabbit_b.port) as b:
            async with AsyncConnection(uri(rabbit_a, b, timeout=3000)) as connection:
                channel = await connection.channel()
                await declare(channel, unique)
                await channel.basic_publish(unique, "", b"before")
                b.refuse()
                b.reset()
                while not await waits(channel.basic_publish(unique, "", b"before")):
                    pass
                with pytest.raises(SendTimeout):
                    await channel.basic_publish(unique, "", b"late")
            async with AsyncConnection(uri(rabbit_a, b)) as connection:
                channel = await connection.channel()
                await declare(channel, unique)
                patient = asyncio.create_task(channel.basic_publish(unique, "", b"patient"))
                await asyncio.sleep(0.1)
                assert not patient.done()
                b.heal()
                await patient
        for place in (rabbit_a, rabbit_b):
            bodies = await take_all(place, unique)
            assert set(bodies) == {b"before", b"patient"}
            assert bodies[-1] == b"patient"

    async def waits(send: object) -> bool:
        """Whether a send is still waiting after a while; it is cancelled then."""
        try:
            await asyncio.wait_for(send, 0.2)  # type: ignore[arg-type]
        except asyncio.TimeoutError:
            return True
        return False

    run_clean(main())


def test_one_of_two_is_enough_where_so_asked_for(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    async def main() -> None:
        with FaultProxy(rabbit_b.host, rabbit_b.port) as b:
            async with AsyncConnection(uri(rabbit_a, b, minAckCount=1, timeout=3000)) as connection:
                channel = await connection.channel()
                await declare(channel, unique)
                b.black_hole()
                await channel.basic_publish(unique, "", b"on a")
                with pytest.raises(Unroutable):
                    await channel.basic_publish("amq.topic", "no.where", b"", mandatory=True)
        assert await take_all(rabbit_a, unique) == [b"on a"]

    run_clean(main())


async def both_are_up(connection: AsyncConnection) -> None:
    assert connection._session is not None
    while "2 of 2 connected" not in repr(connection._session.fanout):
        await asyncio.sleep(0.01)


def test_publish_and_close_at_once_reaches_every_broker_that_was_there(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    sent = [str(number).encode() for number in range(5)]

    async def main() -> None:
        with FaultProxy(rabbit_b.host, rabbit_b.port) as b:
            places = uri(rabbit_a, b, minAckCount=1, closeTimeout=20000)
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await declare(channel, unique)
                await both_are_up(connection)
                b.delay(0.05)
                for body in sent:
                    await channel.basic_publish(unique, "", body)
        for place in (rabbit_a, rabbit_b):
            assert await take_all(place, unique) == sent

    run_clean(main())


def test_copies_that_the_end_cuts_off_are_counted(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with FaultProxy(rabbit_b.host, rabbit_b.port) as b:
            places = uri(rabbit_a, b, minAckCount=1, closeTimeout=100)
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await declare(channel, unique)
                await both_are_up(connection)
                b.black_hole()
                for number in range(3):
                    await channel.basic_publish(unique, "", str(number))
            assert f"{b.port} did not confirm 3 messages before the end" in caplog.text
        await take_all(rabbit_a, unique)

    run_clean(main())


def test_a_member_that_gave_up_is_the_reason(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """With no timeout, so that only the reason can end the send."""

    async def main() -> None:
        with FaultProxy(rabbit_b.host, rabbit_b.port) as b:
            places = uri(rabbit_a, b, reconnect="false", timeout=-1)
            async with AsyncConnection(places) as connection:
                channel = await connection.channel()
                await declare(channel, unique)
                await channel.basic_publish(unique, "", b"before")
                assert connection._session is not None
                b.refuse()
                b.reset()
                while "2 of 2 connected" in repr(connection._session.fanout):
                    await asyncio.sleep(0.01)
                with pytest.raises(ConnectFailed, match="minAckCount=2") as caught:
                    await channel.basic_publish(unique, "", b"x")
                assert str(b.port) in str(caught.value)
        for place in (rabbit_a, rabbit_b):
            await take_all(place, unique)

    run_clean(main())


def test_what_does_not_go_together_is_refused(rabbit_a: RabbitMQ, rabbit_b: RabbitMQ) -> None:
    with pytest.raises(ConfigurationError, match="minAckCount=3"):
        AsyncConnection(uri(rabbit_a, rabbit_b, minAckCount=3))
    with pytest.raises(ConfigurationError, match="trackMessages"):
        AsyncConnection(uri(rabbit_a, rabbit_b, trackMessages="true"))

    async def main() -> None:
        async with AsyncConnection(uri(rabbit_a, rabbit_b)) as connection:
            channel = await connection.channel()
            with pytest.raises(ConfigurationError, match="transactions"):
                await channel.tx_select()

    run_clean(main())
