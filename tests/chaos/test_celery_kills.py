"""The promise to Celery: whatever is killed, no task that `delay()` took is lost."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import amqp
import pytest

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.celery_worker import Worker, environment

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

RATE = 400  # delay() a second that each publisher is told to do
FLOOR = 100  # and must do between outages; on two shared cores it was 330 to 390
PATIENCE = 60.0
SLACK = 1.0  # s that a call may last beyond the longest outage


@dataclass
class Publisher:
    """A publishing process and what it wrote."""

    settings: dict[str, Any]
    folder: Path
    name: str
    process: subprocess.Popen[bytes] | None = None
    lines: list[list[str]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.sent"

    def __enter__(self) -> Publisher:
        command = [sys.executable, "-m", "understudy.testing.celery_publisher", str(RATE)]
        with (self.folder / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(self.file)],
                env=environment(self.settings, self.folder / "unused"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def has_begun(self) -> bool:
        return self.file.exists() and "sent " in self.file.read_text()

    def active(self) -> str:
        """The endpoint that it used last."""
        told = [line for line in self.file.read_text().splitlines() if line.startswith("on ")]
        return told[-1] if told else ""

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, (self.folder / f"{self.name}.log").read_text()
        self.lines = [line.split(" ") for line in self.file.read_text().splitlines()]

    def ids(self) -> set[str]:
        return {line[1] for line in self.lines if line[0] == "sent"}

    def failures(self) -> list[str]:
        return [" ".join(line) for line in self.lines if line[0] == "failed"]

    def longest_call(self) -> float:
        return max(float(line[2]) for line in self.lines if line[0] == "sent")

    def rate(self) -> float:
        """Calls a second, without the time spent in those that waited for a broker."""
        waited = sum(s for line in self.lines if line[0] == "sent" and (s := float(line[2])) > 0.2)
        return len(self.ids()) / (float(self.lines[-1][2]) - waited)


class Killer:
    """Kills the broker in use, again and again, and starts it anew behind the test's back."""

    def __init__(self, nodes: tuple[RabbitMQ, RabbitMQ], publisher: Publisher) -> None:
        self._nodes = nodes
        self._publisher = publisher
        self._starts: dict[RabbitMQ, threading.Thread] = {}
        self._lock = threading.Lock()
        self._up = set(nodes)
        self._all_down_since = 0.0
        self.outages: list[float] = []  # s without any broker

    def active(self) -> RabbitMQ | None:
        """The running node that the publisher uses."""
        endpoint = self._publisher.active()
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

    def wait_all_up(self) -> None:
        for start in self._starts.values():
            start.join(PATIENCE)
        assert self._up == set(self._nodes)

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        for start in self._starts.values():
            start.join()


def left_on(broker: RabbitMQ, queue: str) -> Counter[str]:
    """The ids of the tasks in a queue, which is empty afterwards."""
    found: Counter[str] = Counter()
    user, password = next(iter(broker.users.items()))
    with amqp.Connection(
        f"{broker.host}:{broker.port}", userid=user, password=password
    ) as connection:
        channel = connection.channel()
        with contextlib.suppress(amqp.NotFound):
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                found[message.headers["id"]] += 1
    return found


def survive(
    nodes: tuple[RabbitMQ, RabbitMQ], folder: Path, queue: str, options: str, kills: int
) -> None:
    """A publisher and a worker through that many kills, a third of them while no other is up."""
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    print(f"seed {seed}, {kills} kills, {options}")
    members = ",".join(node.uri for node in nodes)
    settings = {
        "broker_url": f"failover:({members})?randomize=false&maxReconnectDelay=500&{options}",
        "task_default_queue": queue,
        "worker_prefetch_multiplier": 50,
    }
    with (
        Worker(settings, folder, name=f"w-{queue[-8:]}", level="WARNING", pool="threads") as worker,
        Publisher(settings, folder, "publisher") as publisher,
        Killer(nodes, publisher) as killer,
    ):
        assert wait_until(publisher.has_begun, PATIENCE)
        for number in range(kills):
            if number % 3 != 2:
                killer.wait_all_up()
            assert wait_until(killer.active, PATIENCE)
            time.sleep(rng.uniform(0.2, 2.0))
            print(f"killed {killer.kill_the_active().name}")
        killer.wait_all_up()
        assert wait_until(killer.active, PATIENCE)
        time.sleep(1.0)
        publisher.stop()
        worker.terminate()
    executed = worker.journal.ids("mark")
    queued = left_on(nodes[0], queue) + left_on(nodes[1], queue)
    found = executed + queued
    sent = publisher.ids()
    lost = sent - found.keys()
    longest_outage = max(killer.outages, default=0.0)
    print(
        f"{len(sent)} sent, {publisher.rate():.0f} a second between outages, longest call "
        f"{publisher.longest_call():.2f} s, longest outage {longest_outage:.2f} s, "
        f"executed {len(executed)}, left on brokers {queued.total()}, "
        f"duplicates {found.total() - len(found)}, lost {len(lost)}"
    )
    assert not lost
    assert not publisher.failures()
    assert publisher.longest_call() < longest_outage + SLACK
    assert publisher.rate() > FLOOR


MODES = {"confirmed": "trackMessages=false", "tracked": "trackMessages=true&closeTimeout=60000"}


@pytest.mark.parametrize("mode", MODES)
def test_no_task_is_lost_when_brokers_are_killed_at_random(
    rabbits: tuple[RabbitMQ, RabbitMQ], tmp_path: Path, unique: str, mode: str
) -> None:
    """F20, F21, F28 for Celery: a short run."""
    survive(rabbits, tmp_path, unique, MODES[mode], kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_no_task_is_lost_in_twenty_kills(
    rabbits: tuple[RabbitMQ, RabbitMQ], tmp_path: Path, unique: str, mode: str
) -> None:
    """F20, F21, F28 for Celery."""
    survive(rabbits, tmp_path, unique, MODES[mode], kills=20)
