"""A fault at each step of a transaction, a real memory alarm, a fork in the middle of it all."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from understudy.errors import SendTimeout
from understudy.pika import AsyncConnection, BlockingConnection, TransactionRolledBack
from understudy.testing import Background, FaultProxy, wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.alarm import memory_alarm, relieve, starve
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import Told, take_all, uri

pytestmark = pytest.mark.chaos

TX_SELECT, TX_SELECT_OK = (90, 10), (90, 11)
TX_COMMIT, TX_COMMIT_OK = (90, 20), (90, 21)
BASIC_PUBLISH = (60, 40)
BODIES = [b"0", b"1", b"2"]

STEPS = [
    (TX_SELECT, 1, "up", True),
    (TX_SELECT, 1, "up", False),
    (TX_SELECT_OK, 1, "down", True),
    (BASIC_PUBLISH, 1, "up", True),
    (BASIC_PUBLISH, 2, "up", False),
    (BASIC_PUBLISH, 3, "up", False),
    (TX_COMMIT, 1, "up", True),
    (TX_COMMIT, 1, "up", False),
    (TX_COMMIT_OK, 1, "down", True),
    (TX_COMMIT_OK, 1, "down", False),
]


def looked_at(broker: RabbitMQ, queue: str) -> list[bytes]:
    async def look() -> list[bytes]:
        async with AsyncConnection(uri(broker)) as connection:
            channel = await connection.channel()
            bodies = await take_all(channel, queue)
            await channel.queue_delete(queue)
            return bodies

    return run_clean(look())


def judge(found: list[bytes], error: TransactionRolledBack | None) -> None:
    if error is None:
        assert found == BODIES
    elif error.is_in_doubt:
        assert found in ([], BODIES)
    else:
        assert found == []


@pytest.mark.parametrize(("method", "nth", "direction", "before"), STEPS)
def test_f27_f30_a_loss_at_each_step_of_a_transaction(
    rabbit_a: RabbitMQ, unique: str, method: Any, nth: int, direction: Any, before: bool
) -> None:
    """F27, F30: all or nothing, and only what is in doubt is called that."""
    with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
        connection = BlockingConnection(uri(proxy, initialReconnectDelay=0))
        channel = connection.channel()
        channel.queue_declare(unique, durable=True)
        proxy.cut_on(method, nth, direction=direction, before=before)
        error = None
        try:
            channel.tx_select()
            for body in BODIES:
                channel.basic_publish("", unique, body)
            channel.tx_commit()
        except TransactionRolledBack as exc:
            error = exc
        proxy.heal()
        channel.tx_commit()  # of nothing: the channel goes on
        connection.close()
    judge(looked_at(rabbit_a, unique), error)


@pytest.mark.parametrize(("method", "nth", "direction", "before"), STEPS)
def test_f27_f30_the_same_with_coroutines(
    rabbit_a: RabbitMQ, unique: str, method: Any, nth: int, direction: Any, before: bool
) -> None:
    """F27, F30."""

    async def main() -> TransactionRolledBack | None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, initialReconnectDelay=0)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                proxy.cut_on(method, nth, direction=direction, before=before)
                error = None
                try:
                    await channel.tx_select()
                    for body in BODIES:
                        await channel.basic_publish("", unique, body)
                    await channel.tx_commit()
                except TransactionRolledBack as exc:
                    error = exc
                proxy.heal()
                await channel.tx_commit()
                return error

    error = run_clean(main())
    judge(looked_at(rabbit_a, unique), error)


@pytest.fixture
def alarmed(rabbits: tuple[RabbitMQ, RabbitMQ]) -> Iterator[tuple[RabbitMQ, RabbitMQ]]:
    """The first one has too little memory."""
    with memory_alarm(rabbits[0]):
        yield rabbits


@pytest.mark.parametrize("tracks", ["false", "true"])
def test_a_memory_alarm_is_left_after_blocked_timeout(
    alarmed: tuple[RabbitMQ, RabbitMQ], unique: str, tracks: str
) -> None:
    """RabbitMQ tells us at the first message, and reads nothing more; nothing is lost over it."""
    first, second = alarmed
    told = Told()
    options = {"blockedTimeout": 500, "heartbeat": 1000, "trackMessages": tracks}
    connection = BlockingConnection(uri(first, second, **options), on_event=told.add)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    for number in range(5):
        channel.basic_publish("", unique, str(number))
    assert connection.flush(30)
    assert str(second.port) in repr(connection).partition(" of ")[0]
    connection.close()
    assert wait_until(lambda: "Unblocked" in told.names)
    assert told.names.index("Blocked") < told.names.index("Interrupted")
    found = {int(body) for body in looked_at(second, unique)}
    assert found == set(range(5))


def test_a_memory_alarm_without_blocked_timeout_ends_in_time_and_passes(
    rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    """The same connection goes on when the alarm is over."""
    first, _ = rabbits

    async def fill(channel: Any) -> None:
        for _ in range(1000):
            await channel.basic_publish("", unique, b"before")

    async def main() -> None:
        blocked: list[bool] = []
        async with AsyncConnection(uri(first, timeout=4000, heartbeat=2000)) as connection:
            connection.add_on_connection_blocked_callback(lambda *_: blocked.append(True))
            connection.add_on_connection_unblocked_callback(lambda *_: blocked.append(False))
            channel = await connection.channel()
            await channel.queue_declare(unique, durable=True)
            await asyncio.to_thread(starve, first)
            try:
                with pytest.raises(SendTimeout):
                    await fill(channel)
            finally:
                await asyncio.to_thread(relieve, first)
            while blocked[-1:] != [False]:
                await asyncio.sleep(0.01)
            await channel.basic_publish("", unique, b"after")
            assert (await take_all(channel, unique))[-1] == b"after"
            await channel.queue_delete(unique)

    run_clean(main(), 90)


# --- fork ----------------------------------------------------------------------------------------


def child(use: Callable[[], object]) -> None:
    """Fork; the child must be refused, and end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            use()
        except Exception:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_fork_under_a_live_consumer(rabbit_a: RabbitMQ, unique: str) -> None:
    """The child can do nothing, the parent's consumer does not notice."""
    told = Told()
    connection = BlockingConnection(uri(rabbit_a), on_event=told.add)
    channel, publishing = connection.channel(), connection.channel()
    channel.queue_declare(unique, exclusive=True)
    got: list[bytes] = []
    has_come = threading.Semaphore(0)

    def handle(there: Any, method: Any, _: Any, body: bytes) -> None:
        got.append(body)
        there.basic_ack(method.delivery_tag)
        has_come.release()
        if body == b"19":
            there.stop_consuming()

    channel.basic_consume(unique, handle)
    consuming = Background(channel.start_consuming)
    for number in range(20):
        publishing.basic_publish("", unique, str(number))
        if number % 5 == 0:
            child(lambda: publishing.basic_publish("", unique, b"of the child"))
        assert has_come.acquire(timeout=30)
    consuming.join(30)
    assert got == [str(number).encode() for number in range(20)]
    connection.close()
    assert told.names == ["Connected"]


def test_a_fork_under_coroutines(rabbit_a: RabbitMQ, unique: str) -> None:
    """The same; the child's copy of the event loop is not run."""
    told = Told()

    async def main() -> None:
        async with AsyncConnection(uri(rabbit_a), on_event=told.add) as connection:
            channel = await connection.channel()
            await channel.queue_declare(unique, exclusive=True)
            async with channel.consume(unique) as messages:
                for number in range(20):
                    await channel.basic_publish("", unique, str(number))
                    if number % 5 == 0:
                        pid = os.fork()
                        if pid == 0:
                            os._exit(0)
                        assert os.waitpid(pid, 0)[1] == 0
                    message = await anext(messages)
                    assert message.body == str(number).encode()
                    await message.ack()

    run_clean(main())
    assert told.names == ["Connected"]
