"""Discovery in kombu and Celery, with real brokers: files, a web server, multicast on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from understudy import ConfigurationError, SendTimeout
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.ports import free_port
from understudy.testing.celery_worker import Worker, client
from understudy.testing.kombu_lab import prepare, send
from understudy.testing.uri_sources import MULTICAST, Announcer, UriFile, UriServer

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

PATIENCE = 60.0  # s

Take = Callable[[RabbitMQ, str], "list[Found]"]


def gone(login: str = "app:s3cret", vhost: str = "orders") -> str:
    """A configured member that nobody answers for."""
    return f"amqp://{login}@127.0.0.1:{free_port()}/{vhost}"


def supervisor(connection: kombu.Connection) -> Any:
    return connection.transport.broker.supervisor


def is_on(connection: kombu.Connection, place: Any) -> bool:
    current = supervisor(connection).current
    return current is not None and current.port == place.port


def knows(connection: kombu.Connection, *places: Any) -> bool:
    """Wait until the learned endpoints are these."""
    configured = set(supervisor(connection).uri.endpoints)

    def learned() -> set[int]:
        return {e.port for e in supervisor(connection).endpoints if e not in configured}

    return wait_until(lambda: learned() == {place.port for place in places}, PATIENCE)


@pytest.fixture
def uri_file(tmp_path: Path) -> UriFile:
    return UriFile(tmp_path)


@pytest.fixture(params=["file", "http", "multicast"])
def source(request: pytest.FixtureRequest, uri_file: UriFile) -> Iterator[Any]:
    """Something to write addresses to, and the agent that reads them."""
    if request.param == "file":
        yield uri_file
        return
    source = UriServer() if request.param == "http" else Announcer()
    yield source
    source.close()


def agents() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "understudy-discovery"]


@pytest.fixture(autouse=True)
def no_agent_is_left() -> Iterator[None]:
    """They end when they next tell something, at the latest."""
    yield
    assert wait_until(lambda: not agents(), PATIENCE)


# --- D05, F45, F46 --------------------------------------------------------------------------------


def test_d05_announced_brokers_come_and_go(
    lab: Lab, source: Any, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, take_all: Take
) -> None:
    """D05, F46: appears -> connects; vanishes -> leaves the list, the link stays; dies -> next."""
    one, two, fixed = lab.proxy(rabbit_a), lab.proxy(rabbit_b), lab.proxy(rabbit_a)
    fixed.refuse()
    connection = lab.connect(fixed, f"discovery:({source.agent})")
    connecting = lab.background(connection.connect)
    assert not connecting.is_over_within(0.3)
    source.write(one)
    connecting.join(PATIENCE)
    assert is_on(connection, one)
    prepare(connection, unique)
    send(connection, unique, "first")
    accepted = one.accepted
    source.write(two)
    assert knows(connection, two)
    send(connection, unique, "second")
    assert (is_on(connection, one), one.accepted) == (True, accepted)
    one.refuse()
    one.reset()
    send(connection, unique, "third")
    assert is_on(connection, two)
    fixed.heal()
    two.refuse()
    two.reset()
    send(connection, unique, "fourth")
    assert is_on(connection, fixed)
    found = [m.body for broker in (rabbit_a, rabbit_b) for m in take_all(broker, unique)]
    assert sorted(found) == ["first", "fourth", "second", "third"]


@pytest.mark.parametrize("separator", [",", "\n"])
def test_f45_update_uris_url(
    lab: Lab, uri_file: UriFile, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, separator: str
) -> None:
    """F45: an empty list and a file; a second address while running; broker 1 dies."""
    one, two = lab.proxy(rabbit_a), lab.proxy(rabbit_b)
    uri_file.write(one)
    text = f"failover://()?updateURIsURL={uri_file.path}&timeout=20000&maxReconnectAttempts=3"
    connection = kombu.Connection(text)
    lab.connections.append(connection)
    prepare(connection, unique)
    assert is_on(connection, one)
    uri_file.write(one, two, separator=separator)
    assert knows(connection, one, two)
    one.refuse()
    one.reset()
    send(connection, unique)
    assert is_on(connection, two)


def test_f46_when_all_learned_are_dead_the_configured_still_work(
    lab: Lab, uri_file: UriFile, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    """F46: with SIGKILL, not a proxy."""
    configured, learned = rabbits
    proxy = lab.proxy(configured)
    proxy.refuse()
    uri_file.write(learned)
    connection = lab.connect(proxy, f"discovery:({uri_file.agent})")
    prepare(connection, unique)
    assert is_on(connection, learned)
    proxy.heal()
    learned.kill()
    send(connection, unique)
    assert is_on(connection, proxy)
    assert configured.queue_depth(unique) == 1


def test_d02_nobody_there_gives_up_after_the_attempts(lab: Lab, uri_file: UriFile) -> None:
    text = f"discovery://({uri_file.agent})?maxReconnectAttempts=2&connectTimeout=300"
    connection = kombu.Connection(text)
    lab.connections.append(connection)
    with pytest.raises(kombu.exceptions.OperationalError, match="gave up after 2 passes"):
        connection.connect()


def test_d04_discovered_options_reach_the_broker(lab: Lab, uri_file: UriFile) -> None:
    peer = lab.peer()
    uri_file.write(peer)
    options = {"discovered.heartbeat": "7000", "nested.heartbeat": "5000"}
    lab.connect(gone(), f"discovery:({uri_file.agent})", **options).connect()
    assert peer.history[0].login.heartbeat == 7


def test_a_switched_off_list_is_not_read(lab: Lab, uri_file: UriFile, rabbit_a: RabbitMQ) -> None:
    uri_file.write(rabbit_a)
    options = {"updateURIsURL": str(uri_file.path), "updateURIsSupported": "false"}
    connection = lab.connect(lab.peer(), **options)
    connection.connect()
    assert agents() == []
    assert len(supervisor(connection).endpoints) == 1


def test_agents_may_stand_in_transport_options(uri_file: UriFile, rabbit_a: RabbitMQ) -> None:
    uri_file.write(rabbit_a)
    ours = {"updateURIsURL": str(uri_file.path), "timeout": 20000}
    options = {"understudy": ours}
    with kombu.Connection(
        f"failover://(amqp://127.0.0.1:{free_port()})", transport_options=options
    ) as it:
        it.connect()
        assert is_on(it, rabbit_a)


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "login"),
    [
        ({}, ("guest", "guest", "/")),
        ({"discovered.allow": "10.0.0.0/8"}, ("guest", "guest", "/")),
        ({"discovered.allow": "127.0.0.0/8"}, ("app", "s3cret", "orders")),
    ],
)
def test_a_forged_list_collects_no_password(
    lab: Lab,
    uri_file: UriFile,
    our_log: pytest.LogCaptureFixture,
    options: dict[str, str],
    login: tuple[str, str, str],
) -> None:
    thief = lab.peer()
    uri_file.write(thief)
    first = f"amqp://app:s3cret@mq.invalid:{free_port()}/orders"
    connection = lab.connect(first, f"discovery:({uri_file.agent})", **options)
    connection.connect()
    given = thief.history[0].login
    assert (given.user, given.password, given.vhost) == login
    assert supervisor(connection).notifier.settle(PATIENCE)
    assert "s3cret" not in our_log.text
    assert ("no credentials" in our_log.text) is (login[0] == "guest")


def test_a_host_that_is_configured_gets_them(lab: Lab, uri_file: UriFile) -> None:
    peer = lab.peer()
    uri_file.write(peer)
    lab.connect(gone(), f"discovery:({uri_file.agent})").connect()
    given = peer.history[0].login
    assert (given.user, given.password, given.vhost) == ("app", "s3cret", "orders")


def test_other_kombu_transports_are_learned_only_where_one_is_configured(
    lab: Lab, uri_file: UriFile, tmp_path: Path
) -> None:
    uri_file.path.write_text("memory://x\nredis://h\namqp://h:1\nfilesystem://x")
    connection = lab.connect(lab.peer(), "memory://y", f"discovery:({uri_file.agent})")
    connection.connect()
    assert wait_until(lambda: len(supervisor(connection).endpoints) == 4, PATIENCE)
    assert {e.scheme for e in supervisor(connection).endpoints} == {"amqp", "memory"}


# --- sources that fail ----------------------------------------------------------------------------


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_failing_source_delays_no_connect_and_no_close(
    lab: Lab,
    rabbit_a: RabbitMQ,
    unique: str,
    deaf: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("understudy.discovery.http.PATIENCE", 60.0)
    members = [
        f"discovery:(http://127.0.0.1:{deaf}/uris,http://127.0.0.1:{free_port()}/uris)",
        f"discovery:(file://{tmp_path}/missing,https://127.0.0.1:{deaf}/uris)",
        f"discovery:(multicast://{MULTICAST}:{free_port()}?joinNetworkInterface=nowhere)",
    ]
    connection = lab.connect(*members, rabbit_a)
    begin = time.monotonic()
    prepare(connection, unique)
    send(connection, unique)
    broker = connection.transport.broker
    assert len(agents()) == 5
    connection.close()
    broker.discovery.close()
    assert time.monotonic() - begin < 30  # a question to the silent server takes 60
    assert wait_until(lambda: not agents(), 20)


def test_f39_close_while_the_list_is_awaited(lab: Lab, deaf: int) -> None:
    text = f"discovery://(http://127.0.0.1:{deaf}/uris)?connectTimeout=60000"
    connection = kombu.Connection(text)
    connecting = lab.background(connection.connect)
    assert not connecting.is_over_within(0.3)
    connection.close()
    assert connecting.is_over_within(30)
    assert isinstance(connecting.error, Exception)


def test_f15_a_send_timeout_holds_while_nothing_is_known(lab: Lab, uri_file: UriFile) -> None:
    connection = kombu.Connection(f"discovery://({uri_file.agent})?timeout=500")
    lab.connections.append(connection)
    with pytest.raises(SendTimeout):
        send(connection, "any")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("discovery://(multicast://10.0.0.1)", "no multicast address"),
        ("discovery://(file:/x?interval=5)", "updateInterval"),
        ("discovery://(zookeeper://h)", "valid|no discovery agent"),
        ("failover://(amqp://a)?discovered.verify=perhaps", "verify"),
        ("failover://()?updateURIsURL=/x&updateURIsSupported=false", "empty"),
    ],
)
def test_d06_what_cannot_be_is_refused_at_first_use(text: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        kombu.Connection(text).connect()
    assert agents() == []


# --- life -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_f41_a_hundred_connections_leave_no_thread_and_no_socket(
    lab: Lab, uri_file: UriFile, rabbit_a: RabbitMQ
) -> None:
    server, announcer = UriServer(), Announcer()
    uri_file.write(rabbit_a)
    sources = ",".join(one.agent for one in (uri_file, server, announcer))
    nobody = gone("guest:guest", "/")
    uri = f"failover://({nobody},discovery:({sources}))?timeout=20000"

    def cycle() -> None:
        with kombu.Connection(uri) as connection:
            connection.connect()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        cycle()
    assert wait_until(lambda: not agents(), PATIENCE)
    before = descriptors()
    for _ in range(100):
        cycle()
    assert wait_until(lambda: not agents(), PATIENCE)
    assert wait_until(lambda: descriptors() <= before)
    server.close()
    announcer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # on purpose
def test_a_forked_child_asks_for_itself(
    lab: Lab, source: Any, rabbit_a: RabbitMQ, unique: str
) -> None:
    source.write(rabbit_a)
    connection = lab.connect(f"discovery:({source.agent})", gone("guest:guest", "/"))
    prepare(connection, unique)
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        with contextlib.suppress(BaseException):
            send(connection, unique, "child")
            os._exit(0 if len(agents()) == 1 else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    send(connection, unique, "parent")
    assert wait_until(lambda: rabbit_a.queue_depth(unique) == 2, PATIENCE)


@pytest.mark.usefixtures("lab")  # it closes what Celery's pools keep
def test_celery_follows_a_list(
    rabbits: tuple[RabbitMQ, RabbitMQ], uri_file: UriFile, unique: str, tmp_path: Path
) -> None:
    """Worker (prefork) and producer know only a file; their broker is killed, the file changes."""
    one, two = rabbits
    uri_file.write(one)
    uri = f"discovery://({uri_file.agent})?timeout=40000&randomize=false&connectTimeout=1000"
    settings = {"broker_url": uri, "task_default_queue": unique}
    with Worker(settings, tmp_path, name="w", pool="prefork") as worker, client(settings) as app:
        worker.wait_ready()
        mark = app.tasks["tests.mark"]
        first = mark.delay(1).id
        assert wait_until(lambda: worker.journal.ids("mark")[first], PATIENCE)
        uri_file.write(two)
        one.kill()
        second = mark.delay(2).id
        assert wait_until(lambda: worker.journal.ids("mark")[second], PATIENCE), worker.log
