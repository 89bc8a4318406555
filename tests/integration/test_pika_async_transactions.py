"""Transactions of AsyncConnection while its brokers are cut off."""

from __future__ import annotations

import asyncio

import pika
import pytest

from understudy.duplicates import DuplicateWindow
from understudy.pika import (
    AsyncConnection,
    SendTimeout,
    TransactionRolledBack,
)
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import (
    noticed,
    take_all,
    uri,
)

pytestmark = pytest.mark.integration

TX_COMMIT, TX_COMMIT_OK = (90, 20), (90, 21)


def test_an_open_transaction_is_replayed(rabbit_a: RabbitMQ, unique: str) -> None:
    """F30."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                await channel.tx_select()
                for number in range(3):
                    await channel.basic_publish("", unique, str(number))
                await noticed(connection, proxy.reset)
                for number in range(3, 6):
                    await channel.basic_publish("", unique, str(number))
                await channel.tx_commit()
                assert [int(body) for body in await take_all(channel, unique)] == list(range(6))
                await channel.queue_delete(unique)

    run_clean(main())


def test_a_message_that_is_not_written_in_time_is_not_in_its_transaction(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F30: its caller has the error, and may send it again."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy, timeout=5000)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                await channel.tx_select()
                await channel.basic_publish("", unique, b"first")
                proxy.black_hole()
                with pytest.raises(SendTimeout) as caught:
                    await channel.basic_publish("", unique, bytes(2**25))
                assert caught.value.written
                proxy.heal(drop=True)
                await channel.basic_publish("", unique, b"last")
                await channel.tx_commit()
                assert await take_all(channel, unique) == [b"first", b"last"]
                await channel.queue_delete(unique)

    run_clean(main())


def test_a_transaction_with_acknowledgements_is_rolled_back(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F26: the application repeats it with what is delivered again."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                await channel.queue_declare(f"{unique}-out", durable=True)
                await channel.basic_publish("", unique, b"work")
                working = await connection.channel()
                await working.tx_select()
                for is_repeated in (False, True):
                    message = await working.basic_get(unique)
                    assert message is not None
                    await working.basic_publish("", f"{unique}-out", b"result")
                    await message.ack()
                    if not is_repeated:
                        proxy.reset()
                        with pytest.raises(TransactionRolledBack):
                            await working.tx_commit()
                    else:
                        await working.tx_commit()
                assert await take_all(channel, f"{unique}-out") == [b"result"]
                assert await take_all(channel, unique) == []
                await channel.queue_delete(unique)
                await channel.queue_delete(f"{unique}-out")

    run_clean(main())


@pytest.mark.parametrize(("method", "direction"), [(TX_COMMIT, "up"), (TX_COMMIT_OK, "down")])
def test_a_commit_without_an_answer_is_in_doubt_and_never_repeated(
    rabbit_a: RabbitMQ, unique: str, method: tuple[int, int], direction: str
) -> None:
    """F27: repeated by the application with the same ids, a window tells the copies."""

    async def main() -> int:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                await channel.tx_select()

                async def transaction() -> None:
                    for number in range(3):
                        named = pika.BasicProperties(message_id=f"{unique}-{number}")
                        await channel.basic_publish("", unique, str(number), named)
                    await channel.tx_commit()

                proxy.cut_on(method, direction=direction)  # type: ignore[arg-type]
                with pytest.raises(TransactionRolledBack, match="in doubt") as caught:
                    await transaction()
                assert caught.value.is_in_doubt
                assert caught.value.message_ids == tuple(f"{unique}-{n}" for n in range(3))
                await transaction()
                window, new, all_of_them = DuplicateWindow(), [], 0
                while (message := await channel.basic_get(unique, auto_ack=True)) is not None:
                    all_of_them += 1
                    async with window.processing(message) as is_new:
                        if is_new:
                            new.append(message.body)
                await channel.queue_delete(unique)
                assert new == [b"0", b"1", b"2"]
                return all_of_them

    assert run_clean(main()) == (3 if direction == "up" else 6)


def test_a_commit_that_is_cancelled_goes_on(rabbit_a: RabbitMQ, unique: str) -> None:
    """F53: and what comes next waits for its end, so that no message changes its transaction."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                await channel.tx_select()
                proxy.delay(0.2)
                for number in range(3):
                    await channel.basic_publish("", unique, str(number))
                    committing = asyncio.create_task(channel.tx_commit())
                    await asyncio.sleep(0.05)
                    committing.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await committing
                await channel.basic_publish("", unique, b"rolled back")
                await channel.tx_rollback()
                proxy.heal()
                assert await take_all(channel, unique) == [b"0", b"1", b"2"]
                await channel.queue_delete(unique)

    run_clean(main())
