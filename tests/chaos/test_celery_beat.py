"""Celery's beat: the schedule goes on over a failover and after an outage."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.celery_worker import Worker, celery_command, environment

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

PATIENCE = 60.0
SOON = 30.0  # s in which beat must end; it takes 1


@contextmanager
def beat(settings: dict[str, Any], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "beat.log"
    command = celery_command("beat", "-s", str(folder / "schedule"), "-l", "INFO", "--pidfile=")
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=environment(settings, folder / "unused"),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        print(f"log of beat:\n{log.read_text()}")  # pytest shows it with a failure


@pytest.mark.parametrize("track", ["false", "true"])
def test_scheduled_tasks_go_on(
    rabbits: tuple[RabbitMQ, RabbitMQ], tmp_path: Path, unique: str, track: str
) -> None:
    """F20, F21: one broker is killed, then the other too; then one comes back."""
    a, b = rabbits
    settings: dict[str, Any] = {
        "broker_url": f"failover:({a.uri},{b.uri})?randomize=false&maxReconnectDelay=500"
        f"&trackMessages={track}",
        "task_default_queue": unique,
        "beat_schedule": {"tick": {"task": "tests.mark", "schedule": 0.2}},
    }
    with (
        Worker(settings, tmp_path, name=f"w-{unique[-8:]}") as worker,
        beat(settings, tmp_path) as scheduler,
    ):

        def go_on() -> None:
            seen = worker.journal.ids("mark").total()
            assert wait_until(lambda: worker.journal.ids("mark").total() > seen + 5, PATIENCE)

        go_on()
        a.kill()
        go_on()
        b.kill()
        a.start()
        go_on()
        assert scheduler.poll() is None
        began = time.monotonic()
        scheduler.terminate()
        assert scheduler.wait(PATIENCE) == 0
        assert time.monotonic() - began < SOON
