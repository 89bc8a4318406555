"""Celery while brokers are silent, frozen or gone: it moves on, fails in time, and ends when asked.

The brokers are reached through proxies, which refuse, reset and swallow what a test tells them to.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from understudy.errors import SendTimeout
from understudy.testing import FaultProxy, wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.celery_worker import Worker, client

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

PATIENCE = 60.0
SOON = 30.0  # s in which a worker must end; it is to be 5, and is 1 or 2


@dataclass
class Way:
    """Two brokers, each behind a proxy of its own."""

    brokers: tuple[RabbitMQ, RabbitMQ]
    proxies: tuple[FaultProxy, FaultProxy]

    def uri(self, options: str) -> str:
        members = ",".join(f"amqp://guest:guest@{p.host}:{p.port}" for p in self.proxies)
        return f"failover:({members})?randomize=false&{options}"

    def die(self) -> None:
        """Every broker is gone, as if killed."""
        for proxy in self.proxies:
            proxy.refuse()
            proxy.reset()

    def fall_silent(self) -> None:
        for proxy in self.proxies:
            proxy.black_hole()

    def come_back(self) -> None:
        for proxy in self.proxies:
            proxy.heal(drop=True)


@contextlib.contextmanager
def through_proxies(brokers: tuple[RabbitMQ, RabbitMQ]) -> Iterator[Way]:
    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(FaultProxy(broker.host, broker.port)) for broker in brokers)
        yield Way(brokers, (a, b))


@pytest.fixture
def way(rabbits: tuple[RabbitMQ, RabbitMQ]) -> Iterator[Way]:
    with through_proxies(rabbits) as made:
        yield made


def add(app: Any, x: int, y: int) -> int:
    return int(app.tasks["tests.add"].delay(x, y).get(timeout=PATIENCE))


@pytest.mark.parametrize("fault", ["black hole", "SIGSTOP"])
def test_worker_and_publisher_leave_a_silent_broker(
    way: Way, tmp_path: Path, unique: str, fault: str
) -> None:
    """F36: heartbeat=4000; both move on, nothing hangs afterwards, nothing is left behind."""
    settings = {
        "broker_url": way.uri("heartbeat=4000&timeout=60000"),
        "result_backend": "rpc://",
        "task_default_queue": unique,
    }
    a, b = way.proxies
    with (
        Worker(settings, tmp_path, name=f"w-{unique[-8:]}", pool="prefork") as worker,
        client(settings) as app,
    ):
        worker.wait_ready()
        assert add(app, 1, 2) == 3
        if fault == "SIGSTOP":
            way.brokers[0].freeze()
        else:
            a.black_hole()
        began = time.monotonic()
        assert add(app, 3, 4) == 7
        print(f"{fault}: a task was sent, run and answered {time.monotonic() - began:.1f} s later")
        assert time.monotonic() - began < 2 * 4 + 30
        assert worker.connects == 2
        took = worker.terminate()
        print(f"{fault}: the worker ended {took:.1f} s after SIGTERM")
        assert took < SOON
        assert worker.returncode == 0
    assert wait_until(lambda: b.connections == 0)


def is_reconnecting(worker: Worker) -> bool:
    return "cannot connect to" in worker.log


def test_sigterm_ends_workers_that_have_no_broker(
    rabbits: tuple[RabbitMQ, RabbitMQ], tmp_path: Path, unique: str
) -> None:
    """F39: every broker dead; silent but not noticed yet; silent, noticed and being dialed."""
    with contextlib.ExitStack() as stack:
        states = ("dead", "silent", "noticed")
        ways = {state: stack.enter_context(through_proxies(rabbits)) for state in states}
        workers: dict[tuple[str, str], Worker] = {}
        for state, way in ways.items():
            heartbeat = 1000 if state == "noticed" else 10000
            for pool in ("prefork", "solo"):
                settings = {
                    "broker_url": way.uri(f"heartbeat={heartbeat}"),
                    "task_default_queue": f"{unique}-{state}-{pool}",
                }
                folder = tmp_path / f"{state}-{pool}"
                folder.mkdir()
                name = f"{state}-{pool}-{unique[-8:]}"
                worker = Worker(settings, folder, name=name, pool=pool)
                workers[state, pool] = stack.enter_context(worker)
        for worker in workers.values():
            worker.wait_ready()
        ways["noticed"].fall_silent()
        ways["dead"].die()
        for (state, _), worker in workers.items():
            if state != "silent":
                assert wait_until(functools.partial(is_reconnecting, worker), PATIENCE)
        ways["silent"].fall_silent()
        for (state, pool), worker in workers.items():
            took = worker.terminate()
            print(f"{pool}, every broker {state}: ended {took:.1f} s after SIGTERM")
            assert took < SOON
            assert worker.returncode == 0


@pytest.mark.parametrize(
    ("retry", "backend"), [(True, None), (False, None), (True, "rpc://")], ids=str
)
def test_delay_fails_in_time_while_every_broker_is_down(
    way: Way, unique: str, retry: bool, backend: str | None
) -> None:
    """F15: timeout=8000, also with rpc:// results, which block for ever in plain Celery."""
    settings = {
        "broker_url": way.uri("timeout=8000"),
        "result_backend": backend,
        "task_default_queue": unique,
        "task_publish_retry": retry,
    }
    with client(settings) as app:
        mark = app.tasks["tests.add"]
        mark.delay(1, 1)
        way.die()
        began = time.monotonic()
        with pytest.raises(SendTimeout) as caught:
            mark.delay(2, 2)
        took = time.monotonic() - began
        print(f"retry={retry}, {backend}: {took:.2f} s")
        assert 7.5 < took < 30
        assert isinstance(caught.value, OperationalError)
        way.come_back()
        mark.delay(3, 3)
    depth = sum(broker_depth(broker, unique) for broker in way.brokers)
    assert depth == 2


def broker_depth(broker: RabbitMQ, queue: str) -> int:
    with contextlib.suppress(LookupError):
        return broker.queue_depth(queue)
    return 0


@contextlib.contextmanager
def watching(app: Any, seen: list[str]) -> Iterator[None]:
    """A receiver of events in a thread, as `celery events` and Flower have one."""
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(
            connection, handlers={"task-succeeded": lambda event: seen.append(event["uuid"])}
        )

        def capture() -> None:
            while not receiver.should_stop:
                with contextlib.suppress(*connection.connection_errors):
                    receiver.capture(wakeup=False)

        thread = threading.Thread(target=capture)
        thread.start()
        try:
            yield
        finally:
            receiver.should_stop = True
            thread.join()


def test_results_events_and_remote_control_follow_a_failover(
    way: Way, tmp_path: Path, unique: str
) -> None:
    """rpc:// results before and after; an events receiver sees tasks; inspect answers."""
    settings = {
        "broker_url": way.uri("timeout=30000"),
        "result_backend": "rpc://",
        "task_default_queue": unique,
    }
    a, b = way.proxies
    seen: list[str] = []
    with (
        Worker(
            settings, tmp_path, name=f"w-{unique[-8:]}", pool="prefork", options=["-E"]
        ) as worker,
        client(settings) as app,
        client(settings) as watcher,
    ):
        worker.wait_ready()
        with watching(watcher, seen):
            for number in range(2):
                result = app.tasks["tests.add"].delay(number, 1)
                assert result.get(timeout=PATIENCE) == number + 1
                assert wait_until(functools.partial(seen.count, result.id), PATIENCE)
                inspect = app.control.inspect([worker.hostname], timeout=30.0)
                assert inspect.ping() == {worker.hostname: {"ok": "pong"}}
                assert inspect.stats()[worker.hostname]["broker"]["transport"] == "failover"
                nothing: dict[str, list[Any]] = {worker.hostname: []}
                assert wait_until(lambda: inspect.active() == nothing)  # noqa: B023
                if number == 0:
                    a.refuse()
                    a.reset()
        assert worker.connects == 2
        worker.terminate()
    assert wait_until(lambda: b.connections == 0)
