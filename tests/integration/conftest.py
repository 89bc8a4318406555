"""What the kombu and pika tests share: connections, faults in front of brokers, looks into queues.

Every test gets connections under a URI of its own, so nothing of one test's state (the current
broker, back-off, the outbox) is known to another. When the test ends everything it made is closed.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import amqp
import kombu
import pytest

import understudy.kombu
from understudy.core.events import Event
from understudy.failover.notifier import settle
from understudy.kombu import logical
from understudy.kombu.message import ID_HEADER, RESEND_HEADER
from understudy.pika import BlockingConnection
from understudy.testing import Background, FaultProxy, ScriptedPeer
from understudy.testing.brokers import RabbitMQ
from understudyd.api.client import ApiProcess
from understudyd.api.words import Settings
from understudyd.testing import commanded, role_api
from understudyd.testing.pairs import Pair
from understudyd.testing.sides import Side, side

T = TypeVar("T")

understudy.kombu.register()

CALM = {"heartbeat": "0", "timeout": "20000", "randomize": "false"}  # each test overrides its own


class Found:
    """A message as a test finds it in a queue."""

    def __init__(self, message: amqp.Message) -> None:
        body = message.body
        self.body = body.decode() if isinstance(body, bytes) else str(body)
        self.properties: dict[str, Any] = dict(message.properties)
        self.headers: dict[str, Any] = self.properties.get("application_headers") or {}

    def __repr__(self) -> str:
        return f"<{self.body} {self.headers}>"

    @property
    def id(self) -> str:
        return str(self.properties.get("message_id") or self.headers[ID_HEADER])

    @property
    def is_resend(self) -> bool:
        return bool(self.headers.get(RESEND_HEADER))


class Lab:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.connections: list[kombu.Connection] = []

    def proxy(self, broker: RabbitMQ) -> FaultProxy:
        """A network in front of a broker."""
        return self._stack.enter_context(FaultProxy(broker.host, broker.port))

    def peer(self, **script: Any) -> ScriptedPeer:
        return self._stack.enter_context(ScriptedPeer(**script))

    def address(self, place: RabbitMQ | FaultProxy | ScriptedPeer | str) -> str:
        if isinstance(place, str):
            return place
        return f"amqp://guest:guest@{place.host}:{place.port}//"

    def uri(self, *places: RabbitMQ | FaultProxy | ScriptedPeer | str, **options: Any) -> str:
        members = ",".join(map(self.address, places))
        text = "&".join(f"{name}={value}" for name, value in {**CALM, **options}.items())
        return f"failover:({members})?{text}"

    def connect(
        self, *places: RabbitMQ | FaultProxy | ScriptedPeer | str, **options: Any
    ) -> kombu.Connection:
        """A kombu connection to a failover list; nothing is dialed yet. Closed with the test."""
        ours: dict[str, Any] = {}
        if "on_event" in options:
            ours["on_event"] = options.pop("on_event")
        uri = self.uri(*places, **options)
        connection = kombu.Connection(uri, transport_options={"understudy": ours})
        self.connections.append(connection)
        return connection

    def background(self, call: Callable[[], object]) -> Background:
        return Background(call)

    def close(self) -> None:
        """Close all connections within a bound, and forget what they shared."""
        brokers = list(logical._process.brokers.values())
        closing = [Background(connection.close) for connection in self.connections]
        for background in closing:
            background.is_over_within(30.0)
        hanging = [background for background in closing if background.is_running]
        logical._process.brokers.clear()
        for broker in brokers:
            broker.supervisor.close()
            tracked = broker._tracked
            if tracked is not None:
                window = tracked.sender.window
                tracked.abandon()  # forgets what it had still to send
                if window is not None:
                    window.inner.close(0.0)
        assert not hanging, "Connection.close() hangs"


@pytest.fixture
def swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a destructor, or a weak reference's callback, is swallowed by Python.

    pytest would collect it, and be interrupted at that.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        lab = Lab(stack)
        yield lab
        lab.close()


@pytest.fixture
def connect(lab: Lab) -> Iterator[Callable[..., BlockingConnection]]:
    """A connection of the pika adapter to a failover list, closed with the test."""
    made: list[BlockingConnection] = []

    def connection(*places: Any, on_event: Any = None, **options: Any) -> BlockingConnection:
        one = BlockingConnection(lab.uri(*places, **options), on_event=on_event)
        made.append(one)
        return one

    yield connection
    for one in made:
        if one.is_open:
            one.close()


@pytest.fixture
def events() -> Events:
    """Give its ``add`` as on_event."""
    return Events()


class Events:
    """The events of a connection, in order."""

    def __init__(self) -> None:
        self._all: list[Event] = []

    def add(self, event: Event) -> None:
        self._all.append(event)

    @property
    def all(self) -> list[Event]:
        """Everything told before now."""
        assert settle(30)
        return self._all

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.all]

    def count(self, name: str) -> int:
        return self.names.count(name)


class OurLog(pytest.LogCaptureFixture):  # type: ignore[misc]  # final, says its annotation
    """Shows what was told before it was looked at, though another thread writes it."""

    @property
    def handler(self) -> Any:
        assert settle(30)
        return super().handler


@pytest.fixture
def our_log(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> pytest.LogCaptureFixture:
    """What the logger ``understudy`` said."""
    caplog.set_level(logging.INFO, logger="understudy")
    return OurLog(request.node, _ispytest=True)


@pytest.fixture
def plain() -> Iterator[Callable[[RabbitMQ], amqp.Channel]]:
    """A channel of py-amqp's own on a broker, to prepare it and to look into it."""
    with contextlib.ExitStack() as stack:

        def channel(broker: RabbitMQ) -> amqp.Channel:
            address = f"{broker.host}:{broker.port}"
            connection = amqp.Connection(address, userid="guest", password="guest")
            connection.connect()
            stack.callback(_close_quietly, connection)
            return connection.channel()

        yield channel


@pytest.fixture
def queue(
    plain: Callable[[RabbitMQ], amqp.Channel], rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> str:
    """A durable queue of the test's own, under one name on both nodes."""
    for node in (rabbit_a, rabbit_b):
        plain(node).queue_declare(unique, durable=True, auto_delete=False)
    return unique


def _close_quietly(connection: amqp.Connection) -> None:
    with contextlib.suppress(Exception):
        connection.close()


@pytest.fixture
def take_all(
    plain: Callable[[RabbitMQ], amqp.Channel],
) -> Callable[[RabbitMQ, str], list[Found]]:
    """Take everything out of a queue, in order; a queue that does not exist is empty."""

    def take(broker: RabbitMQ, queue: str) -> list[Found]:
        channel = plain(broker)
        found = []
        try:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                found.append(Found(message))
        except amqp.NotFound:
            return []
        channel.connection.close()
        return found

    return take


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key of localhost, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is missing: apt-get install openssl")
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    files = ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    name = "subjectAltName=DNS:localhost"
    subprocess.run(["openssl", *words.split(), name, *files], check=True, capture_output=True)
    with path.open("a") as both:
        both.write(path.with_suffix(".crt").read_text())
    return path


@pytest.fixture
def api() -> Iterator[tuple[ApiProcess, Settings]]:
    """A master's, in this process."""
    given = role_api.settings()
    with role_api.serving(given) as process:
        yield process, given


@pytest.fixture
def sidecar() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """As `role_api.sidecars`; they end with the test."""
    with role_api.sidecars() as start:
        yield start


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[commanded.Estate]:
    with contextlib.ExitStack() as stack:
        yield commanded.Estate(tmp_path, stack)


@pytest.fixture
def cluster(estate: commanded.Estate) -> commanded.Call:
    def call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return commanded.run(command, "-c", str(estate.file), *arguments)

    return call


@pytest.fixture
def sides(
    request: pytest.FixtureRequest, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ
) -> tuple[Side, Side]:
    """Those of a pair of kinds (`understudyd.testing.pairs.over`): of RabbitMQ one node each, the
    one ActiveMQ at both ends."""

    def of(kind: str, node: RabbitMQ) -> Side:
        return side(kind, request.getfixturevalue("activemq") if kind == "activemq" else node)

    here, there = request.param
    return of(here, rabbit_a), of(there, rabbit_b)


@pytest.fixture
def pair(sides: tuple[Side, Side], unique: str) -> Iterator[Pair]:
    """A queue at each, which goes with the test."""
    made = Pair(*sides, unique)
    made.make()
    yield made
    made.remove()
