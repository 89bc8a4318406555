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
from understudyd.bridge.ends.port import ConnectionFailed
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
