"""Which endpoint is used: backups, the way home, mixed kinds, wrong members, nested options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import kombu
import pytest
from kombu.transport import TRANSPORT_ALIASES

from understudy.errors import ConfigurationError
from understudy.testing.brokers import RabbitMQ, Redis
from understudy.testing.kombu_lab import prepare, send

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


def get(connection: kombu.Connection, queue: str) -> list[str]:
    """Take everything out of a queue, over a plain connection of kombu's."""
    found = []
    with connection, connection.channel() as channel:
        while (message := kombu.Queue(queue)(channel).get(no_ack=True)) is not None:
            body = message.body
            found.append(body.decode() if isinstance(body, bytes) else str(body))
    return found


def current(connection: kombu.Connection) -> str:
    supervisor = connection.transport.broker.supervisor
    return "" if supervisor.current is None else str(supervisor.current).rpartition(":")[2]


# --- F49: options of members ----------------------------------------------------------------------


def test_f49_nested_options_and_member_options(lab: Lab) -> None:
    """F49: nested.heartbeat for all, a member's own goes before it."""
    one, two = lab.peer(), lab.peer()
    members = [f"{lab.address(one)}", f"{lab.address(two)}?heartbeat=3000"]
    connection = lab.connect(*members, **{"nested.heartbeat": "7000", "heartbeat": "20000"})
    connection.connect()
    assert one.history[0].login.heartbeat == 7
    one.close()
    send(connection, "any")
    assert two.history[0].login.heartbeat == 3


# --- mixed kinds of brokers ----------------------------------------------------------------------


@pytest.fixture
def two_redis() -> Iterator[tuple[Redis, Redis]]:
    with Redis(name="redis-1") as one, Redis(name="redis-2") as two:
        yield one, two


def test_amqp_then_redis_and_back(
    lab: Lab, rabbit_a: RabbitMQ, redis_server: Redis, unique: str, take_all: Take
) -> None:
    """A list of two kinds: the same producer goes on at either."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, redis_server.uri, initialReconnectDelay=1)
    prepare(connection, unique)
    producer = kombu.Producer(connection)

    def put(text: str) -> None:
        producer.publish(text, routing_key=unique, serializer="raw")

    put("rabbit 1")
    proxy.refuse()
    proxy.reset()
    put("redis")
    assert current(connection).startswith(f"{redis_server.port}")
    proxy.heal()
    redis_server.kill()
    try:
        put("rabbit 2")
    finally:
        redis_server.start()
    assert [m.body for m in take_all(rabbit_a, unique)] == ["rabbit 1", "rabbit 2"]


def test_redis_keeps_what_amqp_sends_there(
    lab: Lab, rabbit_a: RabbitMQ, redis_server: Redis, unique: str
) -> None:
    """What was published after the switch can be read by plain kombu from Redis."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, redis_server.uri, initialReconnectDelay=1)
    prepare(connection, unique)
    proxy.refuse()
    proxy.reset()
    for number in range(3):
        send(connection, unique, str(number))
    assert get(kombu.Connection(redis_server.uri), unique) == ["0", "1", "2"]


@pytest.mark.parametrize("track", ["false", "true"])
def test_redis_and_redis(lab: Lab, two_redis: tuple[Redis, Redis], unique: str, track: str) -> None:
    """Two Redis servers; the first is killed."""
    import understudy.kombu

    one, two = two_redis
    connection = lab.connect(one.uri, two.uri, trackMessages=track, initialReconnectDelay=1)
    prepare(connection, unique)
    send(connection, unique, "before")
    assert understudy.kombu.flush(30)
    one.kill()
    for number in range(3):
        send(connection, unique, str(number))
    assert understudy.kombu.flush(30)
    assert [t for t in get(kombu.Connection(two.uri), unique) if t != "before"] == ["0", "1", "2"]


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_redis_consumer_sees_its_loss(
    lab: Lab, two_redis: tuple[Redis, Redis], unique: str, fault: str
) -> None:
    """A consumer on Redis: the error is one of the connection's, and the next broker serves."""
    one, two = two_redis
    for number, redis in enumerate(two_redis):
        plain = kombu.Connection(redis.uri)
        with plain:
            send(plain, unique, str(number))
    connection = lab.connect(one.uri, two.uri, heartbeat=1000, connectTimeout=1000)
    seen: list[str] = []

    def handle(message: kombu.Message) -> None:
        body = message.body
        seen.append(body.decode() if isinstance(body, bytes) else str(body))
        message.ack()

    def consume(wanted: int) -> None:
        with connection.Consumer(kombu.Queue(unique), on_message=handle):
            while len(seen) < wanted:
                connection.drain_events(timeout=30)

    consume(1)
    getattr(one, fault)()
    failed = lab.background(lambda: consume(2))
    assert failed.is_over_within(60)
    if failed.error is not None:
        assert isinstance(failed.error, connection.connection_errors)
        lab.background(connection.ensure_connection).join()
        lab.background(lambda: consume(2)).join()
    assert seen == ["0", "1"]


def test_error_tuples_cover_all_members(lab: Lab) -> None:
    """Recoverable errors of every member's kind, none of ours, and no nack."""
    import amqp
    import redis

    from understudy.kombu import errors

    connection = lab.connect("amqp://a", "redis://b")
    tuples = connection.recoverable_connection_errors, connection.connection_errors
    for known in tuples:
        assert issubclass(redis.exceptions.ConnectionError, known)
        assert issubclass(ConnectionResetError, known)
        assert issubclass(amqp.exceptions.RecoverableConnectionError, known)
    for ours in (errors.SendTimeout, errors.ConnectFailed, errors.ConnectionLost, errors.Refused):
        assert not issubclass(ours, tuples[0])
    assert not issubclass(errors.RefusedNacked, tuples[0])
    only_amqp = lab.connect("amqp://a", "amqp://b")
    _ = only_amqp.transport  # exact from then on; before, kombu asks the class
    assert redis.exceptions.ConnectionError not in only_amqp.connection_errors


# --- refused at construction ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("failover:(amqp://a)?timout=3000", ["timout", "timeout"]),
        ("failover:(amqp://a)?timeout=soon", ["timeout", "soon"]),
        ("failover:(amqp://a)?backup=yes", ["backup", "yes", "true or false"]),
        ("failover:(ampq://a,amqp://b)", ["ampq", "amqp"]),
        ("failover:(rdis://a)", ["rdis", "redis"]),
        ("failover://()", ["failover"]),
        ("failover:(amqp://a?heartbeet=1)", ["heartbeet", "heartbeat"]),
        ("failover:(amqp://a", ["("]),
        ("fanout:(static:(amqp://a,amqp://b))", ["fanout"]),
        ("failover:(amqps://a?cafile=/no/ca.pem)", ["amqps://a", "cafile=/no/ca.pem"]),
        ("failover:(rediss://a?keyfile=/no/key.pem)", ["rediss://a", "keyfile=/no/key.pem"]),
        ("failover:(amqp://aa)?priorityURIs=amqp://ab", ["priorityURIs", "amqp://aa"]),
    ],
)
def test_f02_f03_bad_uris_are_refused_before_any_socket(uri: str, words: list[str]) -> None:
    """F02, F03: at first use, with the name, the value and the nearest valid one."""
    connection = kombu.Connection(uri)
    with pytest.raises(ConfigurationError) as caught:
        connection.connect()
    for word in words:
        assert word in str(caught.value)


def test_bad_options_from_transport_options() -> None:
    """The library's options are checked in the same way, and the word that they stand under."""
    for options, word in (
        ({"understudy": {"timout": 3000}}, "timeout"),
        ({"understdy": {"timeout": 3000}}, "'understudy'"),
    ):
        connection = kombu.Connection("failover:(amqp://a)", transport_options=options)
        with pytest.raises(ConfigurationError, match=word):
            connection.connect()


def test_missing_transport_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose library is missing: the pip command, now and not in a failover."""
    monkeypatch.setitem(TRANSPORT_ALIASES, "redis", "understudy_no_such_module:Transport")
    connection = kombu.Connection("failover:(amqp://a,redis://b)")
    with pytest.raises(ConfigurationError, match=r"pip install .*understudy\[redis\]"):
        connection.connect()


def test_a_list_beside_a_failover_uri_is_refused() -> None:
    """kombu's own list would tear the URI apart."""
    connection = kombu.Connection(["failover:(amqp://a)", "amqp://b"])
    with pytest.raises(ConfigurationError, match="instead of a list"):
        connection.connect()
