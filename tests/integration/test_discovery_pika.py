"""Discovery in the pika adapter: what an announced broker gets, and what is left at the end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy import ConfigurationError, parse
from understudy.pika import AsyncConnection, BlockingConnection
from understudy.testing import ScriptedPeer, wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.ports import free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def peer() -> Iterator[ScriptedPeer]:
    with ScriptedPeer() as peer:
        yield peer


def agents() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "understudy-discovery"]


def uri_of(
    folder: Path, place: ScriptedPeer | RabbitMQ, login: str, host: str = "mq.invalid/orders"
) -> str:
    """Nobody answers for the configured member."""
    path = folder / "brokers.txt"
    path.write_text(f"amqp://{place.host}:{place.port}\n")
    host, slash, vhost = host.partition("/")
    first = f"amqp://{login}@{host}:{free_port()}{slash}{vhost}"
    agent = f"discovery:(file:{path}?updateInterval=20)"
    return f"failover:({first},{agent})?timeout=20000&randomize=false"


@pytest.mark.parametrize(
    ("options", "login"),
    [
        ("", ("guest", "guest", "/")),
        ("&discovered.allow=127.0.0.0/8", ("app", "s3cret", "orders")),
    ],
)
def test_a_forged_list_collects_no_password(
    tmp_path: Path, peer: ScriptedPeer, options: str, login: tuple[str, str, str]
) -> None:
    with BlockingConnection(uri_of(tmp_path, peer, "app:s3cret") + options):
        given = peer.history[0].login
        assert (given.user, given.password, given.vhost) == login


def test_nor_one_that_was_changed_by_update_secret(tmp_path: Path, peer: ScriptedPeer) -> None:
    """The user has the name that pika takes where nobody says one."""
    uri = parse(uri_of(tmp_path, peer, "guest:s3cret"))
    connection = BlockingConnection.unconnected(uri, lambda event: None)
    connection._dialer.secrets["guest"] = "new s3cret"
    connection._connect()
    connection.close()
    assert peer.history[0].login.password == "guest"


def test_d06_an_agent_that_cannot_be_is_refused_at_construction() -> None:
    for kind in (BlockingConnection, AsyncConnection):
        with pytest.raises(ConfigurationError, match="no multicast address"):
            kind("failover:(amqp://a,discovery:(multicast://10.0.0.1))")
        with pytest.raises(ConfigurationError, match="verify"):
            kind("failover:(amqp://a,discovery:(file:/x))?discovered.verify=perhaps")


def test_an_async_connection_finds_its_broker(tmp_path: Path, rabbit_a: RabbitMQ) -> None:
    async def connect() -> str:
        uri = uri_of(tmp_path, rabbit_a, "guest:guest", "127.0.0.1")
        async with AsyncConnection(uri) as connection:
            return repr(connection)

    assert f"on amqp://guest:**@127.0.0.1:{rabbit_a.port}" in asyncio.run(connect())
    assert wait_until(lambda: not agents())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_f41_a_hundred_connections_leave_no_thread_and_no_socket(
    tmp_path: Path, rabbit_a: RabbitMQ
) -> None:
    uri = uri_of(tmp_path, rabbit_a, "guest:guest", "127.0.0.1")

    def cycle() -> None:
        with BlockingConnection(uri):
            pass

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        cycle()
    assert wait_until(lambda: not agents())
    before = descriptors()
    for _ in range(100):
        cycle()
    assert wait_until(lambda: not agents())
    assert wait_until(lambda: descriptors() <= before)
