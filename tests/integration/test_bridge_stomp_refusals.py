"""What a broker refuses at the STOMP ends of a bridge: missing queues, full ones, logins."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from amqp import Channel

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.ends import stomp_check
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stomp_check import QueueCheck
from understudyd.bridge.outcomes import FULL
from understudyd.testing.stomp_ends import Sink, Tap, pieces, soon

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]
ARTEMIS = os.environ.get("ARTEMIS_URI", "")
PREFIXES = {"activemq": "/queue/", "rabbitmq": "/amq/queue/", "artemis": ""}
BODIES = [b"", b"\0", b"\n\n", b"a\0b\r\n\0", b"x" * 100, bytes(range(256)) * 4096, b"last"]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_a_queue_of_rabbitmq_that_is_missing_is_no_target_and_no_source(
    rabbit_a: RabbitMQ, plain: Plain, unique: str
) -> None:
    """Its receipts would say that all arrived (scenarios 22, 26)."""

    async def work() -> None:
        sink = Sink(rabbit_a.stomp_uri, queue=unique)
        with pytest.raises(ConnectionFailed, match=f"there is no queue '/queue/{unique}'"):
            await sink.end.open()
        tap = Tap(rabbit_a.stomp_uri, f"queue://{unique}")
        with pytest.raises(ConnectionFailed, match=r"404 .*no queue") as caught:
            await tap.end.open(16, 0)
        assert caught.value.closed is not None
        plain(rabbit_a).queue_declare(unique, durable=True, auto_delete=False)
        await sink.end.open()
        await tap.end.open(16, 0)
        await tap.end.close()
        await sink.end.close()
        assert not sink.lost
        assert not tap.lost

    run(work())


@pytest.mark.parametrize("arguments", [{}, {"x-queue-type": "quorum"}, {"x-max-length": 9}])
def test_looking_for_a_queue_neither_makes_nor_changes_it(
    rabbit_a: RabbitMQ, plain: Plain, unique: str, arguments: dict[str, Any]
) -> None:
    channel = plain(rabbit_a)
    missing: list[str] = []

    async def work() -> None:
        sink = Sink(rabbit_a.stomp_uri, queue=unique)
        await sink.end.open()
        sink.end.send(pieces(f"/amq/queue/{unique}", b"1"))
        await sink.await_confirmed(1)
        connection = sink.end._connection
        assert connection is not None
        check = QueueCheck(connection.endpoint, f"/queue/{unique}", missing.append, every=0.05)
        await check.look()
        message = channel.basic_get(unique)
        assert message is not None
        assert not message.delivery_info["redelivered"]
        channel.basic_ack(message.delivery_tag)
        channel.queue_delete(unique)
        check.is_known(lambda: None)  # of late or not: it is looked up again
        await soon(lambda: missing, "it is told")
        check.stop()
        await sink.end.close()

    channel.queue_declare(unique, durable=True, auto_delete=False, arguments=arguments)
    run(work())
    assert missing == [f"the queue '/queue/{unique}' was deleted"]
    with pytest.raises(Exception, match="NOT_FOUND"):
        plain(rabbit_a).queue_declare(unique, passive=True)


def test_after_a_rest_nothing_is_sent_to_a_queue_that_is_gone(
    rabbit_a: RabbitMQ, plain: Plain, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 27: RabbitMQ would take it over STOMP, and drop it."""
    monkeypatch.setattr(stomp_check, "CHECK_EVERY", 0.0)  # as if the last look were long ago
    channel = plain(rabbit_a)
    channel.queue_declare(unique, durable=True, auto_delete=False)

    async def work() -> None:
        sink = Sink(rabbit_a.stomp_uri, queue=unique)
        await sink.end.open()
        sink.end.send(pieces(f"/amq/queue/{unique}", b"1"))
        sink.end.send(pieces(f"/amq/queue/{unique}", b"2", b"3"))
        await sink.await_confirmed(3)
        channel.queue_delete(unique)
        sink.end.send(pieces(f"/amq/queue/{unique}", b"4"))
        await soon(lambda: sink.lost, "the loss of the queue")
        assert len(sink.confirmed) == 3

    run(work())


def test_a_queue_that_refuses_ends_the_connection_and_confirms_nothing_wrongly(
    rabbit_a: RabbitMQ, plain: Plain, unique: str
) -> None:
    """Scenario 23."""
    full = {"x-max-length": 2, "x-overflow": "reject-publish"}
    plain(rabbit_a).queue_declare(unique, durable=True, auto_delete=False, arguments=full)

    async def work() -> None:
        sink = Sink(rabbit_a.stomp_uri, queue=unique)
        await sink.end.open()
        sink.end.send(pieces(f"/amq/queue/{unique}", b"1", b"2", b"3", b"4"))
        await soon(lambda: sink.lost, "the connection is lost")
        assert len(sink.confirmed) <= 2
        closed = sink.lost[0][1]
        assert closed is not None
        assert closed.code == FULL  # no message is at fault

    run(work())


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("activemq", "refused the login: User name"),
        ("rabbitmq", "refused the login: Bad CONNECT: Access refused"),
    ],
)
def test_a_wrong_password_is_said_and_not_shown(
    rabbit_a: RabbitMQ, launch: Callable[[ActiveMQ], ActiveMQ], server: str, said: str
) -> None:
    node: Any = rabbit_a
    uri = rabbit_a.stomp_uri.replace("guest:guest", "guest:se%3Acret")
    if server == "activemq":
        node = launch(ActiveMQ(users={"app": "right"}))
        uri = node.uri.replace("right", "se%3Acret")

    async def work() -> None:
        for end in (Sink(uri).end.open(), Tap(uri, "queue://q").end.open(16, 0)):
            with pytest.raises(ConnectionFailed, match=said) as caught:
                await end
            assert "cret" not in str(caught.value)

    run(work())


def test_a_queue_that_is_deleted_under_its_reader_is_told(
    rabbit_a: RabbitMQ, plain: Plain, unique: str
) -> None:
    """Scenario 26."""
    channel = plain(rabbit_a)
    channel.queue_declare(unique, durable=True, auto_delete=False)

    async def work() -> None:
        tap = Tap(rabbit_a.stomp_uri, f"queue://{unique}")
        await tap.end.open(16, 0)
        channel.queue_delete(unique)
        await soon(lambda: tap.lost, "it is told")
        assert len(tap.lost) == 1
        tap.end.acknowledge(1)  # of a connection that is no more: means nothing
        with pytest.raises(ConnectionFailed, match="no queue"):
            await tap.end.open(16, 0)

    run(work())


def test_another_protocol_and_an_unknown_broker_are_named(rabbit_a: RabbitMQ) -> None:
    async def answer(text: bytes) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\0")
            writer.write(text)
            await reader.read()
            writer.close()

        return await asyncio.start_server(serve, "127.0.0.1", 0)

    async def work() -> None:
        with pytest.raises(ConnectionFailed, match="does not speak STOMP but AMQP"):
            await Sink(f"stomp://guest:guest@127.0.0.1:{rabbit_a.port}").end.open()
        for text, said in (
            (b"CONNECTED\nversion:1.2\nserver:Other/1.0\n\n\0", "does not know what an ack.*Other"),
            (b"CONNECTED\nversion:1.1\nserver:ActiveMQ/5\n\n\0", r"speaks STOMP 1\.1, not 1\.2"),
            (b"CONNECTED\nversion:1.2\nheart-beat:x\nserver:ActiveMQ/5\n\n\0", "heart-beat"),
            (b"MESSAGE\n\n\0", "answered CONNECT with 'MESSAGE'"),
        ):
            async with await answer(text) as server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(ConnectionFailed, match=said):
                    await Sink(f"stomp://127.0.0.1:{port}").end.open()
                await asyncio.sleep(0)

    run(work())
