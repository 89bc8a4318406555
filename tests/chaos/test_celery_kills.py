"""The promise to Celery: whatever is killed, no task that `delay()` took is lost."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import amqp
import pytest

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.celery_worker import Worker, environment

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

RATE = 500  # delay() a second that each publisher is told to do; pauses take longer than asked
FLOOR = 10  # and must do in the median second between outages, for the kills to meet traffic
PATIENCE = 60.0
SLACK = 10.0  # s that a call may last beyond the longest outage; a silent link would cost it 20
OUTAGE = 0.2  # s; a call that takes longer was in one, or met a broker that had just been killed


class Publisher:
    """A publishing process, and what it wrote."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._file = folder / "publisher.sent"
        self._process: subprocess.Popen[bytes] | None = None
        self._read_up_to = 0  # bytes
        self.endpoint = ""  # the one that it used last
        self.sent: dict[str, float] = {}  # id -> seconds that the call took
        self.failures: list[str] = []
        self.paces: list[float] = []  # calls a second, for each second without an outage
        self._longest_since = 0.0  # s, of the calls since the last pace

    def __enter__(self) -> Publisher:
        command = [sys.executable, "-m", "understudy.testing.celery_publisher", str(RATE)]
        with (self._folder / "publisher.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(self._file)],
                env=environment(self._settings, self._folder / "unused"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def read(self) -> Publisher:
        """Take in what it has written since the last time."""
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read_up_to)
                whole = file.read().rpartition(b"\n")[0]
            self._read_up_to += len(whole) + bool(whole)
            for line in whole.decode().splitlines():
                self._take_in(*line.split(" ", 1))
        return self

    def _take_in(self, what: str, rest: str) -> None:
        if what == "on":
            self.endpoint = rest
        elif what == "failed":
            self.failures.append(rest)
        elif what == "sent":
            key, seconds = rest.split(" ")
            self.sent[key] = float(seconds)
            self._longest_since = max(self._longest_since, float(seconds))
        elif what == "pace":
            calls, took = map(float, rest.split(" "))
            if self._longest_since < OUTAGE:
                self.paces.append(calls / took)
            self._longest_since = 0.0

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE) == 0, (self._folder / "publisher.log").read_text()
        self.read()


class Killer:
    """Kills the broker in use, again and again, and starts it anew behind the test's back."""

    def __init__(self, nodes: Sequence[RabbitMQ], publisher: Publisher) -> None:
        self._nodes = nodes
        self._publisher = publisher
        self._starts: dict[RabbitMQ, threading.Thread] = {}
        self._lock = threading.Lock()
        self._up = set(nodes)
        self._all_down_since = 0.0
        self.outages: list[float] = []  # s without any broker

    def active(self) -> RabbitMQ | None:
        """The running node that the publisher uses."""
        endpoint = self._publisher.read().endpoint
        with self._lock:
            return next((node for node in self._up if f":{node.port}" in endpoint), None)

    def kill_the_active(self) -> RabbitMQ:
        victim = self.active()
        assert victim is not None, "the publisher found no broker"
        with self._lock:
            self._up.remove(victim)
            if not self._up:
                self._all_down_since = time.monotonic()
        victim.kill()
        self._starts[victim] = threading.Thread(target=self._start, args=(victim,))
        self._starts[victim].start()
        return victim

    def _start(self, node: RabbitMQ) -> None:
        node.start()
        with self._lock:
            if not self._up:
                self.outages.append(time.monotonic() - self._all_down_since)
            self._up.add(node)

    def has_a_spare(self) -> bool:
        """Whether another node would be up after a kill."""
        return len(self._up) > 1

    def wait_all_up(self) -> None:
        for start in self._starts.values():
            start.join(PATIENCE)
        assert self._up == set(self._nodes)

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        for start in self._starts.values():
            start.join()


def prepare(broker: RabbitMQ, queue: str) -> None:
    """Have the queue there for certain: a young one may be gone after a kill."""
    with connected(broker) as connection:
        connection.channel().queue_declare(queue, durable=True, auto_delete=False)
    broker.settle()


def connected(broker: RabbitMQ) -> amqp.Connection:
    user, password = next(iter(broker.users.items()))
    return amqp.Connection(f"{broker.host}:{broker.port}", userid=user, password=password)


def left_on(broker: RabbitMQ, queue: str) -> Counter[str]:
    """The ids of the tasks in a queue, which is empty afterwards."""
    found: Counter[str] = Counter()
    with connected(broker) as connection:
        channel = connection.channel()
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found[message.headers["id"]] += 1
    return found


def survive(nodes: Sequence[RabbitMQ], folder: Path, queue: str, options: str, kills: int) -> None:
    """A publisher and a worker through that many kills; every third may leave no broker at all."""
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    print(f"seed {seed}, {kills} kills, {options}")
    members = ",".join(node.uri for node in nodes)
    settings = {
        "broker_url": f"failover:({members})?randomize=false&maxReconnectDelay=500&{options}",
        "task_default_queue": queue,
        "worker_prefetch_multiplier": 50,
    }
    for node in nodes:
        prepare(node, queue)
    began = time.monotonic()
    with (
        Worker(settings, folder, name=f"w-{queue[-8:]}", level="WARNING", pool="threads") as worker,
        Publisher(settings, folder) as publisher,
        Killer(nodes, publisher) as killer,
    ):
        assert wait_until(lambda: publisher.read().sent, PATIENCE)
        for number in range(kills):
            if number % 3 != 2:
                assert wait_until(killer.has_a_spare, PATIENCE)
            assert wait_until(killer.active, PATIENCE)
            time.sleep(rng.uniform(0.2, 2.0))
            print(f"{time.monotonic() - began:.1f} s: killed {killer.kill_the_active().name}")
        killer.wait_all_up()
        assert wait_until(killer.active, PATIENCE)
        time.sleep(1.0)
        publisher.stop()
        worker.terminate()
    executed = worker.journal.ids("mark")
    queued = sum((left_on(node, queue) for node in nodes), Counter[str]())
    found = executed + queued
    lost = publisher.sent.keys() - found.keys()
    longest, longest_outage = max(publisher.sent.values()), max(killer.outages, default=0.0)
    rate = statistics.median(publisher.paces)
    print(
        f"{kills} kills in {time.monotonic() - began:.0f} s: {len(publisher.sent)} sent, "
        f"{rate:.0f} in the median second between outages, "
        f"longest call {longest:.2f} s, longest outage {longest_outage:.2f} s, "
        f"executed {len(executed)}, left on brokers {queued.total()}, "
        f"duplicates {found.total() - len(found)}, lost {len(lost)}"
    )
    assert not lost
    assert not publisher.failures
    assert longest < longest_outage + SLACK
    assert rate >= FLOOR


MODES = {"confirmed": "trackMessages=false", "tracked": "trackMessages=true&closeTimeout=60000"}


@pytest.fixture(scope="module")
def third(rabbit_a: RabbitMQ) -> Iterator[RabbitMQ]:
    """With three nodes one can be killed as soon as a restart before the last is done."""
    with RabbitMQ(name="rabbit-c") as node:
        yield node


@pytest.mark.parametrize("mode", MODES)
def test_no_task_is_lost_in_twenty_kills(
    rabbits: tuple[RabbitMQ, RabbitMQ], third: RabbitMQ, tmp_path: Path, unique: str, mode: str
) -> None:
    """F20, F21, F28 for Celery."""
    survive((*rabbits, third), tmp_path, unique, MODES[mode], kills=20)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_no_task_is_lost_in_a_hundred_kills(
    rabbits: tuple[RabbitMQ, RabbitMQ], third: RabbitMQ, tmp_path: Path, unique: str, mode: str
) -> None:
    """The same for longer."""
    survive((*rabbits, third), tmp_path, unique, MODES[mode], kills=100)
