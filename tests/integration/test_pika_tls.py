"""TLS with the pika adapters while the network cuts it off, in its handshake and later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from understudy.pika import AsyncConnection
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.clean_loop import run_clean

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Connect = Callable[..., Any]


class Secure:
    """A RabbitMQ that speaks TLS, for `localhost`, directly and behind a proxy."""

    def __init__(self, broker: RabbitMQ, port: int, certificate: Path) -> None:
        self.broker = broker
        self.port = port
        self._file = certificate.with_suffix(".crt")

    def address(self, port: int) -> str:
        return f"amqps://guest:guest@localhost:{port}//?cafile={self._file}"

    def uri(self, *ports: int, **options: object) -> str:
        given = {"randomize": "false", "timeout": 20000, "initialReconnectDelay": 0, **options}
        text = "&".join(f"{name}={value}" for name, value in given.items())
        return f"failover:({','.join(map(self.address, ports))})?{text}"


@pytest.fixture(scope="module")
def secure(certificate: Path) -> Any:
    port = free_port()
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.certfile": str(certificate.with_suffix(".crt")),
        "ssl_options.keyfile": str(certificate),
        "ssl_options.verify": "verify_none",
        "ssl_options.fail_if_no_peer_cert": "false",
    }
    with RabbitMQ(name="secure-pika", settings=settings) as broker:
        yield Secure(broker, port, certificate)


def test_tls(
    secure: Secure,
    certificate: Path,
    lab: Lab,
    connect: Connect,
    our_log: pytest.LogCaptureFixture,
    unique: str,
) -> None:
    """Verified by default, and each member has its own name and files; across a reset."""
    crt = certificate.with_suffix(".crt")

    def address(port: int, options: str) -> str:
        return f"amqps://guest:guest@localhost:{port}//?{options}"

    with FaultProxy("127.0.0.1", secure.port) as proxy:
        members = [
            address(secure.port, "heartbeat=0"),
            address(secure.port, f"cafile={crt}&server_hostname=elsewhere"),
            address(proxy.port, f"cafile={crt}"),
        ]
        for tracks in ("false", "true"):
            connection = connect(*members, trackMessages=tracks, initialReconnectDelay=1)
            channel = connection.channel()
            channel.queue_declare(unique, durable=True)
            channel.queue_purge(unique)
            body = b"x" * 1_000_000
            channel.basic_publish("", unique, body)
            proxy.reset()
            channel.basic_publish("", unique, "small")
            assert connection.flush(60)
            assert channel.basic_get(unique, auto_ack=True)[2] == body
            connection.close()
    for cause in ("elsewhere", "self-signed"):
        assert any(cause in line for line in our_log.messages)
    loose = connect(address(secure.port, "verify=false"))
    loose.channel().queue_delete(unique)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_f38_cut_after_so_many_bytes_of_a_handshake(
    connect: Connect, secure: Secure, take_all: Take, unique: str, direction: Any
) -> None:
    """F38: hello, certificate, keys, login: wherever it is cut the next member is used."""
    sent = 0
    with FaultProxy("127.0.0.1", secure.port) as proxy:
        for count in (1, 4, 5, 6, 60, 250, 400, 700, 1100, 1500, 1600, 1900, 2200, 2600, 3300):
            cut = proxy.cut_after(count, direction)
            connection = connect(secure.address(proxy.port), secure.address(secure.port))
            channel = connection.channel()
            channel.queue_declare(unique, durable=True)
            channel.basic_publish("", unique, str(sent))
            sent += 1
            connection.close()
            cut.cancel()
    assert {int(message.body) for message in take_all(secure.broker, unique)} == set(range(sent))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_f37_half_open_in_the_handshake(connect: Connect, secure: Secure, direction: Any) -> None:
    """F37: one way is dead: left after connectTimeout."""
    with FaultProxy("127.0.0.1", secure.port) as proxy:
        proxy.half_open(direction)
        members = secure.address(proxy.port), secure.address(secure.port)
        connection = connect(*members, connectTimeout=2000)
        assert str(secure.port) in repr(connection).partition(" of ")[0]
        connection.close()


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("tracks", ["false", "true"])
def test_f07_half_open_later(
    lab: Lab,
    connect: Connect,
    secure: Secure,
    take_all: Take,
    unique: str,
    direction: Any,
    tracks: str,
) -> None:
    """F07: left after two heartbeats; what was on its way is sent again."""
    with FaultProxy("127.0.0.1", secure.port) as proxy:
        members = secure.address(proxy.port), secure.address(secure.port)
        connection = connect(*members, heartbeat=1000, trackMessages=tracks)
        channel = connection.channel()
        channel.queue_declare(unique, durable=True)
        channel.basic_publish("", unique, "0")
        assert connection.flush(60)
        proxy.half_open(direction)
        for number in range(1, 20):
            lab.background(partial(channel.basic_publish, "", unique, str(number))).join(60)
        assert connection.flush(60)
        assert str(secure.port) in repr(connection).partition(" of ")[0]
        connection.close()
        found = [int(message.body) for message in take_all(secure.broker, unique)]
    assert list(dict.fromkeys(found)) == list(range(20))


def test_asyncio_through_resets_of_tls(secure: Secure, unique: str) -> None:
    """Large messages both ways, reset in the middle of their records."""

    async def main() -> None:
        with FaultProxy("127.0.0.1", secure.port) as proxy:
            async with AsyncConnection(secure.uri(proxy.port)) as connection:
                channel = await connection.channel()
                await channel.queue_declare(unique, durable=True)
                for size in (1, 1_000, 100_000, 1_000_000):
                    for count in (3, 700, 20_000, 300_000):
                        proxy.cut_after(count, "up")
                        await channel.basic_publish("", unique, b"x" * size)
                        proxy.reset()
                sizes: set[int] = set()
                async with channel.consume(unique) as messages:
                    proxy.cut_after(50_000, "down")
                    while len(sizes) < 4:
                        message = await anext(messages)
                        assert message.body.strip(b"x") == b""
                        sizes.add(len(message.body))
                        await message.ack()
                assert sizes == {1, 1_000, 100_000, 1_000_000}
                await channel.queue_delete(unique)

    run_clean(main(), 120)


def test_asyncio_half_open_in_the_handshake(secure: Secure) -> None:
    """F37; and a connect that is cancelled there leaves nothing."""

    async def main() -> None:
        with FaultProxy("127.0.0.1", secure.port) as proxy:
            proxy.half_open("up")
            members = secure.uri(proxy.port, secure.port, connectTimeout=2000)
            async with AsyncConnection(members) as connection:
                assert str(secure.port) in repr(connection).partition(" of ")[0]
            waiting = AsyncConnection(secure.uri(proxy.port, connectTimeout=30000))
            connecting = asyncio.create_task(waiting.connect())
            await asyncio.sleep(0.3)
            connecting.cancel()
            await asyncio.wait((connecting,))
            assert waiting.is_closed

    run_clean(main())
