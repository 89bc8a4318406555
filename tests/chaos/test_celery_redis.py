"""Celery over Redis members: worker and producer move on when one is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.testing import wait_until
from understudy.testing.brokers import Redis
from understudy.testing.celery_worker import Worker, client

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

PATIENCE = 60.0
TASKS = 20  # sent at once


@pytest.mark.parametrize("track", ["false", "true"])
def test_worker_and_producer_survive_the_kill_of_a_redis(
    launch: Callable[[Redis], Redis], tmp_path: Path, unique: str, track: str
) -> None:
    """F20: killed one after the other, both at once too. Each task runs, and runs once.

    Nothing is in a worker's hands at a kill: what kombu has popped from a Redis and not yet noted
    as unacknowledged there dies with it.
    """
    a, b = (launch(Redis(name=name, appendonly=True)) for name in ("redis-a", "redis-b"))
    settings: dict[str, Any] = {
        "broker_url": f"failover:({a.uri},{b.uri})?randomize=false&maxReconnectDelay=500"
        f"&timeout=60000&trackMessages={track}",
        "task_default_queue": unique,
    }
    sent: set[str] = set()
    with (
        Worker(settings, tmp_path, name=f"w-{unique[-8:]}") as worker,
        client(settings) as app,
    ):

        def are_done() -> bool:
            return worker.journal.ids("mark").keys() >= sent

        def run_some() -> None:
            sent.update(app.tasks["tests.mark"].delay(n).id for n in range(TASKS))
            assert wait_until(are_done, PATIENCE), worker.log

        worker.wait_ready()
        run_some()
        a.kill()
        run_some()
        a.start()
        b.kill()
        run_some()
        a.kill()
        b.start()
        run_some()
        worker.terminate()
        assert worker.returncode == 0
    done = worker.journal.ids("mark")
    assert done.keys() == sent
    assert done.total() == 4 * TASKS
    assert worker.connects == 4
