"""The STOMP ends of a bridge when something goes wrong: nothing hangs, nothing is confirmed that is
not there, and the loss is told once, with its reason.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp import Channel

from understudy.testing import FaultProxy
from understudy.testing.brokers import ActiveMQ, RabbitMQ, free_port
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.testing.stomp_ends import Sink, Tap, pieces, soon

pytestmark = pytest.mark.integration

MAX_FRAME = 20_000  # bytes


@pytest.fixture(scope="module")
def small() -> Iterator[ActiveMQ]:
    """One that takes no large frames, to be killed and frozen at will."""
    with ActiveMQ(stomp_options=f"wireFormat.maxFrameSize={MAX_FRAME}") as broker:
        yield broker


@pytest.fixture
def victim(small: ActiveMQ) -> Iterator[ActiveMQ]:
    small.start()
    yield small
    small.start()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 90))


def through(broker: ActiveMQ, proxy: FaultProxy, **options: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"stomp://{proxy.host}:{proxy.port}?{query}"


def test_what_was_confirmed_survives_a_kill_and_the_rest_is_in_doubt(
    victim: ActiveMQ, unique: str
) -> None:
    """Scenario 16."""
    where = f"/queue/{unique}"

    async def work() -> None:
        sink, tap = Sink(victim.uri), Tap(victim.uri, f"queue://{unique}", is_acknowledging=True)
        await sink.end.open()
        for begin in range(0, 5000, 100):
            sink.end.send(pieces(where, *[b"%d" % n for n in range(begin, begin + 100)]))
        await sink.await_confirmed(1000)
        victim.kill()
        await soon(lambda: sink.lost, "the loss is told")
        confirmed = len(sink.confirmed)
        assert len(sink.lost) == 1
        assert confirmed < 5000
        sink.end.send(pieces(where, b"for nobody"))
        victim.start()
        await tap.end.open(16, 0)
        await tap.await_count(confirmed)
        assert tap.bodies[:confirmed] == [b"%d" % n for n in range(confirmed)]
        await sink.end.open()
        sink.end.send(pieces(where, b"again"))
        await soon(lambda: sink.confirms[-1] == (1, 1, True), "numbers begin anew")
        await tap.end.close()
        await sink.end.close()

    run(work())


@pytest.mark.parametrize("how", ["frozen", "black hole"])
def test_a_broker_that_falls_silent_is_lost_within_two_heartbeats(
    victim: ActiveMQ, unique: str, how: str
) -> None:
    """Scenario 18."""

    async def work(proxy: FaultProxy) -> None:
        uri = through(victim, proxy, heartbeat="500")
        sink, tap = Sink(uri), Tap(uri, f"queue://{unique}")
        await sink.end.open()
        await tap.end.open(16, 0)
        await asyncio.sleep(1.5)
        assert not sink.lost
        assert not tap.lost
        if how == "frozen":
            victim.freeze()
        else:
            proxy.black_hole()
        await soon(lambda: sink.lost and tap.lost, "both are lost", within=10)
        assert sink.lost[0][0].startswith("silent for ")
        assert sink.lost[0][1] is None
        assert tap.lost[0].startswith("silent for ")
        victim.thaw()

    with FaultProxy(victim.host, victim.port) as proxy:
        run(work(proxy))


def test_opening_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = f"failover:(stomp://127.0.0.1:{deaf.getsockname()[1]})?connectTimeout=300"

        async def work() -> None:
            for end in (Sink(uri).end.open(), Tap(uri, "queue://q").end.open(16, 0)):
                with pytest.raises(ConnectionFailed, match=r"no answer within 0\.3 s"):
                    await end

        run(work())


def test_a_source_that_is_silent_about_its_subscription_is_given_up(
    victim: ActiveMQ, unique: str
) -> None:
    async def work(proxy: FaultProxy) -> None:
        uri = through(victim, proxy, heartbeat="500")
        tap = Tap(uri, f"queue://{unique}")
        dial = tap.end._dialer.dial

        async def dial_then_cut(*given: Any) -> Any:
            connection = await dial(*given)
            proxy.black_hole()
            return connection

        tap.end._dialer.dial = dial_then_cut  # type: ignore[assignment, method-assign]
        with pytest.raises(ConnectionFailed, match="silent for"):
            await tap.end.open(16, 0)
        assert tap.lost == []

    with FaultProxy(victim.host, victim.port) as proxy:
        run(work(proxy))


@pytest.mark.parametrize(
    ("bodies", "headers", "said"),
    [
        ((b"1", b"x" * (MAX_FRAME + 1), b"3"), {}, "maximum frame size"),
        ((b"1",), {"long": "x" * 11_000}, "maximum header length"),
        ((b"1",), {"transaction": "none"}, "Invalid transaction"),
    ],
)
def test_an_error_over_one_message_puts_all_since_the_last_receipt_in_doubt(
    victim: ActiveMQ, unique: str, bodies: tuple[bytes, ...], headers: dict[str, str], said: str
) -> None:
    """Scenario 35: it is told as a message's fault, and the end can be opened again."""
    where = f"/queue/{unique}"

    async def work() -> None:
        sink = Sink(victim.uri)
        await sink.end.open()
        sink.end.send(pieces(where, b"before"))
        await sink.await_confirmed(1)
        sink.end.send(pieces(where, *bodies, **headers) + pieces(where, b"after"))
        await soon(lambda: sink.lost, "the ERROR is told")
        ((reason, closed),) = sink.lost
        assert said in reason
        assert closed is not None
        assert closed.code in (311, 502)
        assert sink.confirmed == {1}
        await sink.end.open()
        sink.end.send(pieces(where, b"after"))
        await soon(lambda: len(sink.confirms) == 2, "it goes on")
        await sink.end.close()

    run(work())


def test_a_target_that_reads_slowly_is_told_as_congested(activemq: ActiveMQ, unique: str) -> None:
    """Scenario 19: what it does not take stays here and is not confirmed; then all arrives."""
    where, size, count = f"/queue/{unique}", 1_000_000, 20

    async def work(proxy: FaultProxy) -> None:
        sink = Sink(through(activemq, proxy))
        tap = Tap(activemq.uri, f"queue://{unique}", is_acknowledging=True)
        await sink.end.open()
        proxy.throttle(2_000_000)
        sink.end.send(pieces(where, *[b"x" * size] * count))
        await soon(lambda: sink.congested == [True], "it is told")
        assert len(sink.confirmed) * size <= proxy.bytes_up
        proxy.heal()
        await sink.await_confirmed(count)
        assert sink.congested == [True, False]
        await tap.end.open(16, 0)
        await tap.await_count(count)
        assert set(tap.bodies) == {b"x" * size}
        await tap.end.close()
        await sink.end.close()

    with FaultProxy(activemq.host, activemq.port) as proxy:
        run(work(proxy))


def test_a_large_body_goes_through_and_heartbeats_with_it(
    activemq: ActiveMQ, rabbit_a: RabbitMQ, plain: Callable[[RabbitMQ], Channel], unique: str
) -> None:
    """Scenario 4."""
    plain(rabbit_a).queue_declare(unique, durable=True, auto_delete=False)
    body = bytes(range(256)) * (30_000_000 // 256)

    async def work(uri: str, where: str) -> None:
        sink, tap = Sink(f"{uri}?heartbeat=1000"), Tap(f"{uri}?heartbeat=1000", f"queue://{unique}")
        await sink.end.open()
        sink.end.send(pieces(where, body, b"after"))
        await sink.await_confirmed(2)
        await tap.end.open(16, 0)
        await tap.await_count(2)
        assert tap.bodies == [body, b"after"]
        tap.end.acknowledge(2)
        await tap.end.close()
        await sink.end.close()
        assert sink.lost == []
        assert tap.lost == []

    run(work(activemq.uri, f"/queue/{unique}"))
    run(work(rabbit_a.stomp_uri, f"/amq/queue/{unique}"))


def test_a_certificate_is_verified_unless_the_uri_says_otherwise(
    launch: Callable[[RabbitMQ], RabbitMQ], certificate: Path, unique: str
) -> None:
    """Scenario 67."""
    port = free_port()
    trusted = certificate.with_suffix(".crt")
    settings = {
        "stomp.listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.certfile": str(trusted),
        "ssl_options.keyfile": str(certificate),
        "ssl_options.verify": "verify_none",
    }
    launch(RabbitMQ(stomp=True, settings=settings))
    login = "stomp+ssl://guest:guest"

    async def work() -> None:
        for refused in (
            f"{login}@localhost:{port}",
            f"{login}@127.0.0.1:{port}?cafile={trusted}",  # it is for localhost
        ):
            with pytest.raises(ConnectionFailed, match="its certificate was not accepted"):
                await Sink(refused).end.open()
        for taken in (
            f"{login}@localhost:{port}?cafile={trusted}",
            f"{login}@127.0.0.1:{port}?verify=false",
        ):
            sink = Sink(taken)
            await sink.end.open()
            sink.end.send(pieces(f"/queue/{unique}", b"x" * 1_000_000))
            await sink.await_confirmed(1)
            await sink.end.close()

    run(work())
