"""The STOMP ends of a bridge against real brokers: what they read, send, confirm and give back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from amqp import Channel

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.dialects import ACTIVEMQ
from understudyd.bridge.ends import stomp_check
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stomp_check import QueueCheck
from understudyd.bridge.outcomes import FULL
from understudyd.bridge.wire.receipts import GROUP
from understudyd.testing.stomp_ends import Sink, Tap, pieces, soon

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]
ARTEMIS = os.environ.get("ARTEMIS_URI", "")
PREFIXES = {"activemq": "/queue/", "rabbitmq": "/amq/queue/", "artemis": ""}
BODIES = [b"", b"\0", b"\n\n", b"a\0b\r\n\0", b"x" * 100, bytes(range(256)) * 4096, b"last"]


class Place:
    """A queue of a broker, and how it is named there."""

    def __init__(self, kind: str, uri: str, queue: str) -> None:
        self.kind, self.uri, self.queue = kind, uri, queue
        self._address = PREFIXES[kind] + queue
        self._beside = {"destination-type": "ANYCAST"} if kind == "artemis" else {}

    def tap(self, **options: Any) -> Tap:
        return Tap(self.uri, f"queue://{self.queue}", **options)

    def sink(self) -> Sink:
        return Sink(self.uri, queue=self.queue)

    def pieces(self, *bodies: bytes, **headers: str) -> list[bytes]:
        return pieces(self._address, *bodies, **self._beside, **headers)


@pytest.fixture(
    params=[
        "activemq",
        "rabbitmq",
        pytest.param("artemis", marks=pytest.mark.skipif(not ARTEMIS, reason="no ARTEMIS_URI")),
    ]
)
def place(request: pytest.FixtureRequest, unique: str) -> Place:
    """An empty queue at each kind of broker; Artemis where the environment names one."""
    if request.param == "artemis":
        return Place("artemis", ARTEMIS, unique)
    if request.param == "activemq":
        return Place("activemq", request.getfixturevalue("activemq").uri, unique)
    node = request.getfixturevalue("rabbit_a")
    request.getfixturevalue("plain")(node).queue_declare(unique, durable=True, auto_delete=False)
    return Place("rabbitmq", node.stomp_uri, unique)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_what_is_sent_is_confirmed_and_read_in_order(place: Place) -> None:
    """Scenarios 2, 3: bodies of all kinds stay what they are."""

    async def work() -> None:
        sink, tap = place.sink(), place.tap()
        await sink.end.open()
        sink.end.send(place.pieces(*BODIES))
        await sink.await_confirmed(len(BODIES))
        await tap.end.open(16, 0)
        await tap.await_count(len(BODIES))
        assert tap.bodies == BODIES
        assert list(tap.got) == list(range(1, len(BODIES) + 1))
        tap.end.acknowledge(len(BODIES))
        await tap.end.close()
        await sink.end.close()
        assert sink.end.dialect is not None
        assert sink.end.dialect.name == tap.end.dialect.name  # type: ignore[union-attr]
        again = place.tap()
        await again.end.open(16, 0)
        with pytest.raises(AssertionError):
            await soon(lambda: again.got, "nothing is left", within=0.5)
        await again.end.close()
        assert not sink.lost
        assert not tap.lost

    run(work())


def test_one_receipt_stands_for_a_group_where_it_says_so(place: Place) -> None:
    async def work() -> None:
        sink = place.sink()
        await sink.end.open()
        count = 10 * GROUP
        for _ in range(10):
            sink.end.send(place.pieces(*[b"x" * 100] * GROUP))
        await sink.await_confirmed(count)
        is_grouped = sink.end.dialect is not None and sink.end.dialect.confirms_are_cumulative
        assert len(sink.confirms) == (10 if is_grouped else count)
        assert max(sink.confirmed) == count
        await sink.end.close()

    run(work())


def test_what_was_not_acknowledged_comes_again_in_order(place: Place) -> None:
    async def work() -> None:
        sink, first, second = place.sink(), place.tap(), place.tap()
        await sink.end.open()
        bodies = [b"%d" % n for n in range(10)]
        sink.end.send(place.pieces(*bodies))
        await sink.await_confirmed(10)
        await first.end.open(16, 0)
        await first.await_count(10)
        first.end.acknowledge(4)
        first.end.acknowledge(4)  # again means nothing
        await first.end.close()
        await second.end.open(16, 0)
        await second.await_count(6)
        assert second.bodies == bodies[4:]
        await second.end.close()
        await sink.end.close()

    run(work())


def test_a_window_grows_where_deliveries_count(place: Place) -> None:
    """RabbitMQ delivers no more than it was told; ActiveMQ has its whole window at once."""
    if place.kind == "artemis":
        pytest.skip("its window counts bytes")

    async def work() -> None:
        sink, tap = place.sink(), place.tap(prefetch=60)
        await sink.end.open()
        sink.end.send(place.pieces(*[b"%d" % n for n in range(100)]))
        await sink.await_confirmed(100)
        await tap.end.open(4, 0)
        first = 4 if place.kind == "rabbitmq" else 60
        await tap.await_count(first)
        tap.end.widen(60)
        await tap.await_count(60)
        await asyncio.sleep(0.2)  # more would come by now
        assert len(tap.got) == 60
        tap.end.acknowledge(60)
        await tap.await_count(100)
        assert tap.bodies == [b"%d" % n for n in range(100)]
        tap.end.acknowledge(100)
        await tap.end.close()
        await sink.end.close()

    run(work())


def test_reading_can_be_paused(place: Place) -> None:
    async def work() -> None:
        sink, tap = place.sink(), place.tap()
        await sink.end.open()
        await tap.end.open(16, 0)
        tap.end.read(False)
        sink.end.send(place.pieces(b"1", b"2"))
        await sink.await_confirmed(2)
        await asyncio.sleep(0.2)
        assert not tap.got
        tap.end.read(True)
        await tap.await_count(2)
        await tap.end.close()
        await sink.end.close()

    run(work())


def test_no_header_can_end_its_frame(place: Place) -> None:
    """Scenario 8: line ends, colons and backslashes in names and values."""
    headers = {"a": "\n\nSEND\n:c\\", "b\\n:c": "1", "d": "\r\nsubscription:9"}

    async def work() -> None:
        sink, tap = place.sink(), place.tap()
        await sink.end.open()
        sink.end.send(place.pieces(b"body", **headers))
        await sink.await_confirmed(1)
        await tap.end.open(16, 0)
        await tap.await_count(1)
        got = tap.got[1].headers
        assert tap.bodies == [b"body"]
        assert {name: got.get(name) for name in headers} == headers
        assert got["subscription"] != "9"
        tap.end.acknowledge(1)
        await tap.end.close()
        await sink.end.close()

    run(work())


def test_a_durable_subscription_misses_nothing_while_the_bridge_is_away(
    activemq: ActiveMQ, rabbit_a: RabbitMQ, unique: str
) -> None:
    async def work(uri: str) -> None:
        tap, sink = Tap(uri, f"topic://{unique}.*", durable=unique), Sink(uri)
        await tap.end.open(16, 0)
        second = Tap(uri, f"topic://{unique}.*", durable=unique)
        if ACTIVEMQ is tap.end.dialect:
            with pytest.raises(ConnectionFailed, match="already connected"):
                await second.end.open(16, 0)
        await tap.end.close()
        await sink.end.open()
        sink.end.send(pieces(f"/topic/{unique}.a", b"1", b"2"))
        sink.end.send(pieces(f"/topic/{unique}.a.b", b"not"))
        await sink.await_confirmed(3)
        await tap.end.open(16, 0)
        await tap.await_count(2)
        tap.end.acknowledge(1)
        await tap.end.close()
        await second.end.open(16, 0)
        await second.await_count(1)
        assert second.bodies == [b"2"]
        second.end.acknowledge(1)
        await second.end.close()
        await sink.end.close()

    run(work(activemq.uri))
    run(work(rabbit_a.stomp_uri))


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
        assert check.is_known(lambda: None)  # of late
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
