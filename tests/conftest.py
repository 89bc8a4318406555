"""Fixtures for all tests: real brokers, started when first asked for, and unique names.

Each of pytest's workers has servers of its own. The table of scenarios is kept here, because where
workers run the tests, the process that prints the summary reads this conftest alone.

A server that is not installed skips the test and names the command to install it; where the
environment says ``CI=true`` it fails the test instead, so that no run there is silently smaller.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn, TypeVar

import pytest

from understudy.failover.notifier import settle
from understudy.testing.brokers import (
    ActiveMQ,
    RabbitMQ,
    Redis,
    Server,
    ServerMissing,
    start_all,
)
from understudy.testing.scenarios.table import Table

S = TypeVar("S", bound=Server)

TABLE = Table()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, value in report.user_properties:
        if name == "cell" and (report.when == "call" or report.outcome != "passed"):
            *ids, column = map(str, value)  # type: ignore[call-overload]  # put there by `_noted`
            for scenario in ids:
                TABLE.note(scenario, column, report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TABLE.is_empty:
        return
    terminalreporter.section("scenarios of the catalogue")
    for line in TABLE.lines():
        terminalreporter.write_line(line)


def _missing(error: ServerMissing) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"this run must have the server: {error}", pytrace=False)
    pytest.skip(f"server missing: {error}")


def _started(start: Future[S]) -> S:
    try:
        return start.result()
    except ServerMissing as error:
        _missing(error)


@pytest.fixture(autouse=True)
def _all_is_told() -> Iterator[None]:
    """What a test's connections tell does not come into the next test's log."""
    yield
    settle(5)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A name no other test uses, for queues, exchanges and keys."""
    test = re.sub(r"\W+", "-", request.node.name).strip("-")
    return f"{test[:60]}-{uuid.uuid4().hex[:8]}"  # not `random`, which is seeded alike per test


@pytest.fixture
def installed() -> Callable[[Server], None]:
    """Skip, or in CI fail, unless a server that the test will start itself is installed."""

    def check(server: Server) -> None:
        try:
            server.check_installed()
        except ServerMissing as error:
            _missing(error)

    return check


@pytest.fixture
def launch() -> Iterator[Callable[[S], S]]:
    """Start a server of the test's own, ``launch(RabbitMQ(stomp=True))``; it ends with the test."""
    servers: list[Server] = []

    def start(server: S) -> S:
        servers.append(server)
        try:
            return server.start()
        except ServerMissing as error:
            _missing(error)

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def _rabbit_starts() -> Iterator[list[Future[RabbitMQ]]]:
    """Two nodes coming up side by side, for the time of one."""
    nodes = [RabbitMQ(name=f"rabbit-{name}", stomp=True) for name in "ab"]
    with ThreadPoolExecutor(len(nodes)) as pool:
        starts = [pool.submit(node.start) for node in nodes]
    yield starts  # both are over: who counts threads and descriptors finds none of theirs
    for node in nodes:
        node.close()


@pytest.fixture(scope="session")
def rabbit_a(_rabbit_starts: list[Future[RabbitMQ]]) -> RabbitMQ:
    """A RabbitMQ node shared by all tests; leave it running, or ask for `rabbits`."""
    return _started(_rabbit_starts[0])


@pytest.fixture(scope="session")
def rabbit_b(_rabbit_starts: list[Future[RabbitMQ]]) -> RabbitMQ:
    """A second node, independent of the first."""
    return _started(_rabbit_starts[1])


@pytest.fixture
def rabbits(rabbit_a: RabbitMQ, rabbit_b: RabbitMQ) -> Iterator[tuple[RabbitMQ, RabbitMQ]]:
    """Both nodes, to be killed, frozen and restarted at will: the next test gets them running."""
    start_all(rabbit_a, rabbit_b)
    yield rabbit_a, rabbit_b
    start_all(rabbit_a, rabbit_b)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis shared by all tests, without persistence."""
    yield from _one(Redis())


@pytest.fixture(scope="session")
def activemq() -> Iterator[ActiveMQ]:
    """An ActiveMQ Classic shared by all tests."""
    yield from _one(ActiveMQ())


def _one(server: S) -> Iterator[S]:
    try:
        server.start()
    except ServerMissing as error:
        _missing(error)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(params=["rabbitmq", "activemq"])
def stomp_broker(request: pytest.FixtureRequest) -> RabbitMQ | ActiveMQ:
    """Each shared broker that speaks STOMP; leave it running."""
    broker: RabbitMQ | ActiveMQ = request.getfixturevalue(
        "rabbit_a" if request.param == "rabbitmq" else "activemq"
    )
    return broker
