"""A forked child shares no socket and no lock with its parent, and no thread is left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest

import understudy.stomp
from understudy.failover.monitor import monitor
from understudy.testing import wait_until
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.stomp_lab import Listener, StompLab

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),  # on purpose
]

Broker = RabbitMQ | ActiveMQ


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def in_child(work: Callable[[], object]) -> int:
    """The exit code of a child that does this; an alarm ends one that hangs."""
    child = os.fork()
    if child == 0:
        signal.alarm(90)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("tracked", ["true", "false"])
def test_a_child_begins_anew_and_the_parent_goes_on(
    lab: StompLab, stomp_broker: Broker, unique: str, tracked: str
) -> None:
    proxy = lab.proxy(stomp_broker)
    connection = lab.connection(proxy, trackMessages=tracked, backup="true")
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    connection.send(f"/queue/{unique}", "parent before")

    def child() -> None:
        assert not connection.is_connected()
        with pytest.raises(understudy.stomp.ConnectionLost):
            connection.send(f"/queue/{unique}", "child too early")
        connection.connect(wait=True)
        connection.send(f"/queue/{unique}", "child")
        connection.disconnect()

    for _ in range(3):
        assert in_child(child) == 0
    connection.send(f"/queue/{unique}", "parent after")
    assert connection.flush(60)
    listener.wait_for_bodies("parent before", "child", "parent after")
    assert "Interrupted" not in [type(event).__name__ for event in lab.events]


def test_forks_in_the_middle_of_everything(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """Threads of ours hold their locks for moments; a fork waits for those."""
    connection = lab.connection(stomp_broker)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    stop = threading.Event()
    failures: list[BaseException] = []

    def send() -> None:
        try:
            while not stop.is_set():
                connection.send(f"/queue/{unique}", "x")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        connection.connect(wait=True)
        connection.send(f"/queue/{unique}-child", "x")
        connection.disconnect()

    codes = [in_child(child) for _ in range(10)]
    stop.set()
    for thread in threads:
        thread.join(60)
    assert codes == [0] * 10
    assert not failures


def test_all_threads_end_with_disconnect(lab: StompLab, stomp_broker: Broker) -> None:
    """F41."""
    monitor.watch(Beating(), lambda dead, reason: None)  # the process's own thread is up
    before = threading.active_count()
    for _ in range(3):
        connection = lab.connect(stomp_broker, backup="true", trackMessages="true")
        connection.set_listener("", Listener())
        connection.subscribe("/queue/threads", id="1")
        connection.disconnect()
    assert wait_until(lambda: threading.active_count() <= before), threading.enumerate()


class Beating:
    heartbeat = 1.0

    def beat(self, now: float) -> str | None:
        return None
