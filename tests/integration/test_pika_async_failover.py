"""AsyncConnection while its brokers are killed, frozen and cut off."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable

import pika
import pytest
from pika import exceptions

from understudy.core.events import Event, MessageFailed
from understudy.duplicates import DuplicateWindow, message_id
from understudy.failover.message_ids import RESEND_HEADER
from understudy.pika import (
    AsyncChannel,
    AsyncConnection,
    ConnectFailed,
    SendTimeout,
    TransactionRolledBack,
)
from understudy.testing import FaultProxy, ScriptedPeer
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.clean_loop import run_clean
from understudy.testing.frames import BASIC_ACK, BASIC_CONSUME, QUEUE_DECLARE

pytestmark = pytest.mark.integration

Place = RabbitMQ | FaultProxy | ScriptedPeer
PATIENCE = 30.0  # s for what takes a second at most on a healthy machine


def uri(*places: Place, **options: object) -> str:
    members = ",".join(f"amqp://guest:guest@{place.host}:{place.port}" for place in places)
    given = {"timeout": 30000, "heartbeat": 0, "randomize": "false", **options}
    return f"failover:({members})?" + "&".join(f"{k}={v}" for k, v in given.items())


QUEUE_DECLARE_OK = (50, 11)
BASIC_CONSUME_OK = (60, 21)
TX_COMMIT, TX_COMMIT_OK = (90, 20), (90, 21)


class Told:
    """Events, by name."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.all]


async def noticed(connection: AsyncConnection, fault: Callable[[], None]) -> None:
    """Let a fault happen, and wait until the connection has lost its wire over it."""
    session = connection._session
    assert session is not None
    wire = session.wire
    fault()
    while session.wire is wire:
        await asyncio.sleep(0.001)


async def take_all(channel: AsyncChannel, queue: str) -> list[bytes]:
    """Everything that is in a queue now."""
    bodies = []
    while (message := await channel.basic_get(queue, auto_ack=True)) is not None:
        bodies.append(message.body)
    return bodies


def in_order(bodies: list[bytes]) -> list[int]:
    """The numbers, each where it came first."""
    return list(dict.fromkeys(int(body) for body in bodies))


# --- publishing ---------------------------------------------------------------------------------


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


# --- consuming ----------------------------------------------------------------------------------


def test_an_iterator_goes_on_across_a_kill(rabbits: tuple[RabbitMQ, RabbitMQ], unique: str) -> None:
    """F19, F21, F23: queue, qos and consumer are there again; tags rise; late acks are dropped."""
    a, b = rabbits

    async def main() -> None:
        async with AsyncConnection(uri(a, b)) as connection:
            channel = await connection.channel()
            await channel.basic_qos(prefetch_count=3)
            queue = (await channel.queue_declare("", exclusive=True)).method.queue
            await channel.exchange_declare(unique, "fanout", auto_delete=True)
            await channel.queue_bind(queue, unique)
            for number in range(10):
                await channel.basic_publish(unique, "", str(number))
            async with channel.consume(queue) as messages:
                held = [await anext(messages) for _ in range(3)]
                await held[0].ack()
                await asyncio.to_thread(a.kill)
                for number in range(10, 20):
                    await channel.basic_publish(unique, "", str(number))
                for message in held[1:]:
                    await message.ack()  # of the broker that is gone
                got = []
                tags = [message.delivery_tag for message in held]
                async for message in messages:
                    got.append(int(message.body))
                    tags.append(message.delivery_tag)
                    await message.ack()
                    if message.body == b"19":
                        break
            assert tags == sorted(set(tags))
            assert [number for number in got if number >= 10] == list(range(10, 20))
            assert connection.stale_acks == 2

    run_clean(main(), PATIENCE * 2)


def test_an_iterator_that_was_cancelled_while_it_began_can_be_used_again(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """F53: whether its request was written or not."""

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, exclusive=True)
                for fault, heal in ((proxy.black_hole, proxy.reset), (proxy.refuse, proxy.reset)):
                    messages = channel.consume(unique)
                    fault()
                    if fault == proxy.refuse:
                        await noticed(connection, proxy.reset)
                    for _ in range(3):
                        with pytest.raises(asyncio.TimeoutError):
                            await asyncio.wait_for(anext(messages), 0.05)
                    proxy.heal(drop=True)
                    heal()
                    await channel.basic_publish("", unique, b"through")
                    message = await anext(messages)
                    assert message.body == b"through"
                    await message.ack()
                    await messages.cancel()

    run_clean(main())


def test_everything_is_processed_through_many_drops(rabbit_a: RabbitMQ, unique: str) -> None:
    """F20, F21: publisher and consumer on one proxy, dropped again and again."""
    drops, count = 12, 600
    told = Told()
    processed: Counter[int] = Counter()

    async def consume(channel: AsyncChannel, window: DuplicateWindow) -> None:
        async for message in channel.consume(unique):
            async with window.processing(message) as is_new:
                if is_new:
                    processed[int(message.body)] += 1
            with contextlib.suppress(ValueError):
                await message.ack()
            if len(processed) == count:
                return

    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            places = uri(proxy, initialReconnectDelay=0)
            async with AsyncConnection(places, on_event=told.all.append) as connection:
                publishing, consuming = await connection.channel(), await connection.channel()
                await publishing.queue_declare(unique, durable=True)
                await consuming.basic_qos(prefetch_count=20)
                consumer = asyncio.create_task(consume(consuming, DuplicateWindow()))
                for drop in range(drops):
                    numbers = range(drop * count // drops, (drop + 1) * count // drops)
                    sends = [
                        asyncio.create_task(publishing.basic_publish("", unique, str(number)))
                        for number in numbers
                    ]
                    await asyncio.sleep(0.01 * (drop % 3))
                    proxy.reset()
                    await asyncio.gather(*sends)
                await asyncio.wait_for(consumer, PATIENCE)
                await publishing.queue_delete(unique)

    run_clean(main(), PATIENCE * 2)
    assert sorted(processed) == list(range(count))
    assert set(processed.values()) == {1}
    assert told.names.count("Interrupted") == told.names.count("Resumed")


@pytest.mark.parametrize(
    ("method", "direction"),
    [
        (QUEUE_DECLARE, "up"),
        (QUEUE_DECLARE_OK, "down"),
        (BASIC_CONSUME, "up"),
        (BASIC_CONSUME_OK, "down"),
    ],
)
def test_a_cut_in_a_call_or_while_restoring_is_just_another_loss(
    rabbit_a: RabbitMQ, unique: str, method: tuple[int, int], direction: str
) -> None:
    async def main() -> None:
        with FaultProxy(rabbit_a.host, rabbit_a.port) as proxy:
            async with AsyncConnection(uri(proxy)) as connection:
                channel = await connection.channel()
                cut = proxy.cut_on(method, direction=direction, times=3)  # type: ignore[arg-type]
                await channel.queue_declare(unique, exclusive=True)
                async with channel.consume(unique) as messages:
                    await channel.basic_publish("", unique, b"through")
                    assert (await anext(messages)).body == b"through"
                    assert cut.fired == 3

    run_clean(main())


# --- transactions -------------------------------------------------------------------------------


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
