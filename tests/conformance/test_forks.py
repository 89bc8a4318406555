"""Forks while threads of ours run and take locks all the time.

The child checks what it has inherited, fails over by itself, and leaves by `os._exit`: 0 for
success. An alarm ends a child that hangs, which is how a deadlock shows.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from understudy.core.endpoint import Endpoint
from understudy.core.events import Event
from understudy.core.uri import parse
from understudy.errors import ConnectFailed
from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.monitor import monitor
from understudy.failover.supervisor import Supervisor
from understudy.testing import FakeConnection, FakeDialer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),  # on purpose
]

LONG = 60.0  # s
URI = (
    "failover:(amqp://a,amqp://b,amqp://c)?randomize=false&initialReconnectDelay=0"
    "&maxReconnectDelay=1&backup=true"
)


class WatchedConnection(FakeConnection):
    heartbeat = 0.008

    def beat(self, now: float) -> str | None:
        return None


class WatchedDialer(FakeDialer):
    """Has its connections watched, as real dialers do: one lock within another."""

    connection_class = WatchedConnection

    def dial(self, endpoint: Endpoint, timeout: float) -> FakeConnection:
        connection = super().dial(endpoint, timeout)
        assert isinstance(connection, WatchedConnection)
        monitor.watch(connection, lambda dead, reason: None)
        return connection

    def discard(self, connection: FakeConnection) -> None:
        assert isinstance(connection, WatchedConnection)
        monitor.forget(connection)
        super().discard(connection)


class User:
    """What `attach` gets."""


def acquire(supervisor: Supervisor[FakeConnection]) -> FakeConnection:
    return supervisor.acquire(Deadline(LONG))


def in_child(check: Callable[[], None]) -> int:
    """Run this in a forked child; its status, 0 when all was well."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(LONG))
        try:
            check()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def fail_over() -> None:
    """A supervisor's whole life, events and alarms included."""
    dialer = WatchedDialer()
    told = threading.Semaphore(0)
    supervisor = Supervisor(parse(URI), dialer, on_event=lambda _: told.release())
    user = User()
    supervisor.attach(user)
    one = acquire(supervisor)
    supervisor.lost(one, "cut")
    other = acquire(supervisor)
    assert str(other.endpoint) == "amqp://b", other
    for _ in range(3):
        assert told.acquire(timeout=LONG)
    rung = threading.Event()
    with monitor.alarm(0, rung.set):
        assert rung.wait(LONG)
    supervisor.close()


@pytest.fixture
def noise() -> Iterator[None]:
    """Supervisor, spares, events and monitor threads that never rest, until the test is over."""
    dialer = WatchedDialer()
    told: list[Event] = []
    supervisor = Supervisor(parse(URI), dialer, on_event=told.append)
    user = User()
    supervisor.attach(user)
    over = threading.Event()

    def work(number: int) -> None:
        turn = number
        while not over.is_set():
            turn += 1
            connection = acquire(supervisor)
            if turn % 3 == 0:
                supervisor.lost(connection, "cut")
            else:
                with monitor.alarm(60, lambda: None):
                    supervisor.released(connection)
                dialer.discard(connection)
            over.wait(0.0005)  # leave the CPU to the others

    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(work, number) for number in range(3)]
        yield
        over.set()
        for call in calls:
            call.result(LONG)
    supervisor.close()


@pytest.mark.usefixtures("noise")
def test_a_child_inherits_nothing_but_abandoned_connections() -> None:
    dialer = WatchedDialer()
    supervisor = Supervisor(parse(URI), dialer, on_event=lambda _: None)
    user = User()
    supervisor.attach(user)
    taken, other = acquire(supervisor), acquire(supervisor)
    dialer.wait_until(lambda: supervisor._spares.endpoints)
    generation = forking.generation()

    def check() -> None:
        assert forking.generation() == generation + 1
        fates = [connection.fate for connection in dialer.connections]
        assert fates == ["abandoned"] * 3, fates
        assert supervisor.current is None
        assert supervisor.epoch_of(taken) == -1
        with pytest.raises(ConnectFailed):
            supervisor.acquire(Deadline(None))
        supervisor.close()
        fail_over()

    assert [in_child(check) for _ in range(50)] == [0] * 50
    assert forking.generation() == generation
    assert [connection.fate for connection in dialer.connections] == ["open"] * 3
    supervisor.lost(other, "cut")
    assert str(acquire(supervisor).endpoint) == "amqp://b"
    supervisor.close()


@pytest.mark.usefixtures("noise")
def test_two_threads_may_fork_at_once() -> None:
    def forks() -> list[int]:
        return [in_child(fail_over) for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(forks) for _ in range(2)]
        assert [call.result(LONG) for call in calls] == [[0] * 10] * 2
    fail_over()


def test_a_child_of_a_child() -> None:
    def check() -> None:
        fail_over()
        assert in_child(fail_over) == 0

    assert in_child(check) == 0


def test_an_owner_that_is_gone_is_forgotten() -> None:
    supervisor = Supervisor(parse(URI), WatchedDialer())
    (entry,) = [ref for ref in list(forking._owners.values()) if ref() is supervisor._control]
    del supervisor
    gc.collect()
    assert entry() is None
    assert not [ref for ref in list(forking._owners.values()) if ref is entry]
