"""The Redis lock against a real server: what only Redis does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from understudy.errors import ConfigurationError
from understudy.testing import FaultProxy
from understudy.testing.brokers import Redis
from understudyd.lock.port import Unavailable
from understudyd.lock.record import LockRecord, RecordError
from understudyd.lock.redis import RedisBackend

pytestmark = pytest.mark.integration

RECORD = LockRecord("g", "a", "a-1", token=2**53, sequence=1, lease=3.0)
PATIENCE = 30.0  # s
TIMEOUT = 2.0  # s, of one attempt


@pytest.fixture
def server() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture
def client(server: Redis) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server.uri)
    yield client
    client.close()


def test_a_replica_knows_nothing_and_a_promoted_one_begins_a_new_life(
    server: Redis, client: redis.Redis
) -> None:
    """Catalogue 64, 67."""
    backend = RedisBackend(server.uri, "g", TIMEOUT)
    nothing = backend.read()
    before = backend.swap(nothing, RECORD)
    assert before.record == RECORD
    with Redis() as other:
        replica = redis.Redis.from_url(other.uri)
        replica.replicaof(server.host, server.port)
        deadline = time.monotonic() + PATIENCE
        while replica.get("understudy:g") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        second = RedisBackend(other.uri, "g", TIMEOUT)
        with pytest.raises(Unavailable, match="replica"):
            second.read()
        replica.replicaof("NO", "ONE")
        after = second.read()
        assert after.record == RECORD
        assert after.incarnation != before.incarnation
        replica.close()
        second.close()
    backend.close()


def test_a_frozen_server_costs_no_more_than_the_timeout(server: Redis) -> None:
    """Catalogue 47, 66: redis-py's ten retries of five seconds must not apply."""
    backend = RedisBackend(server.uri, "g", TIMEOUT)
    backend.read()
    server.freeze()
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(Unavailable):
            backend.read()
        assert time.monotonic() - start < 20
    server.thaw()
    backend.read()
    backend.close()


def test_a_black_hole_costs_no_more_than_the_timeout(server: Redis) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        backend = RedisBackend(f"redis://{proxy.host}:{proxy.port}/0", "g", TIMEOUT)
        seen = backend.read()
        proxy.black_hole()
        start = time.monotonic()
        with pytest.raises(Unavailable):
            backend.swap(seen, RECORD)
        assert time.monotonic() - start < 20
        proxy.heal()
        assert backend.read().record in (None, RECORD)  # what was held back may come late
        backend.close()


def test_a_new_connection_costs_one_round_trip() -> None:
    """42: each of several would take its own time-out, and the lease would be over before."""
    said: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            said.append(connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        port = listening.getsockname()[1]
        backend = RedisBackend(f"redis://127.0.0.1:{port}/0", "g", timeout=5)
        with pytest.raises(Unavailable):
            backend.read()
        thread.join()
        backend.close()
    assert [b"EVAL" in one for one in said] == [True]


def test_a_swap_whose_answer_is_lost_may_have_happened(server: Redis) -> None:
    """Catalogue 41, 70."""
    with FaultProxy(server.host, server.port) as proxy:
        backend = RedisBackend(f"redis://{proxy.host}:{proxy.port}/0", "g", TIMEOUT)
        seen = backend.read()
        proxy.cut_after(1, direction="down")
        with pytest.raises(Unavailable):
            backend.swap(seen, RECORD)
        assert backend.read().record == RECORD
        backend.close()


def test_a_flush_leaves_nothing_and_no_other_life(server: Redis, client: redis.Redis) -> None:
    """Catalogue 63."""
    backend = RedisBackend(server.uri, "g", TIMEOUT)
    before = backend.swap(backend.read(), RECORD)
    client.flushall()
    after = backend.read()
    assert after.record is None
    assert after.incarnation == before.incarnation
    backend.close()


@pytest.mark.parametrize("value", ["", "nonsense", '{"v":9}'])
def test_what_is_no_record_is_not_overwritten(
    server: Redis, client: redis.Redis, value: str
) -> None:
    backend = RedisBackend(server.uri, "g", TIMEOUT)
    nothing = backend.read()
    client.set("understudy:g", value)
    with pytest.raises(RecordError):
        backend.read()
    with pytest.raises((RecordError, Unavailable)):
        backend.swap(nothing, RECORD)
    assert client.get("understudy:g") == value.encode()
    backend.close()


def test_the_key_may_be_given(server: Redis, client: redis.Redis) -> None:
    backend = RedisBackend(f"{server.uri}?key=locks%3Aorders", "g", TIMEOUT)
    backend.swap(backend.read(), RECORD)
    assert client.keys("*") == [b"locks:orders"]
    backend.close()


@pytest.mark.parametrize(
    "uri", ["redis://h/0", "unix:///run/redis?db=1", "rediss://h?ssl_check_hostname=false"]
)
def test_every_kind_of_address_is_taken(uri: str) -> None:
    RedisBackend(uri, "g", TIMEOUT).close()


def test_no_password_in_any_error() -> None:
    with Redis(password="right") as server:
        uri = f"redis://:wr%40ng@{server.host}:{server.port}/0"
        backend = RedisBackend(uri, "g", TIMEOUT)
        with pytest.raises(Unavailable) as caught:
            backend.read()
        backend.close()
    assert "invalid username-password" in str(caught.value)
    assert "wr@ng" not in str(caught.value)
    assert "wr%40ng" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("redis://h:x/0", "is no Redis address"),
        ("redis://h/0?key=", "key= is empty"),
        ("redis://h/0?socket_timeout=60", 'unknown option "socket_timeout"'),
        ("redis://h/0?decode_responses=true", "valid: key, db, password, username, ssl_…"),
        ("http://h/0", "is no Redis address"),
    ],
)
def test_a_wrong_address_is_refused_at_once(uri: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        RedisBackend(uri, "g", TIMEOUT)
