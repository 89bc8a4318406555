"""Celery workers of every pool: tasks run, their broker is killed, tasks run on the next one."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

import pytest
from celery import chord, group

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ, Redis
from understudy.testing.celery_worker import Journal, Worker, client

pytestmark = pytest.mark.integration

POOLS = ("prefork", "solo", "threads", "gevent")
PATIENCE = 60.0  # s for a result; a healthy worker on this machine needs 0.1


def usable(pool: str) -> bool:
    if pool != "gevent":
        return True
    with contextlib.suppress(ImportError):
        importlib.import_module("gevent")
        return True
    return False


def run_everything(app: Any, journal: Journal) -> None:
    """Send each kind of task and wait for its outcome."""
    tasks = {name.removeprefix("tests."): task for name, task in app.tasks.items()}
    add = tasks["add"]
    assert add.delay(1, 2).get(timeout=PATIENCE) == 3
    assert add.apply_async((2, 2), countdown=0.5).get(timeout=PATIENCE) == 4
    tried = tasks["stubborn"].delay(2, 0.2)
    both = group(add.s(n, n) for n in range(5)).apply_async()
    assert both.get(timeout=PATIENCE) == [0, 2, 4, 6, 8]
    joined = chord(add.s(n, 1) for n in range(5))(tasks["total"].s())
    assert joined.get(timeout=PATIENCE) == 15
    assert wait_until(lambda: journal.values("try", tried.id) == ["0", "1", "2"], PATIENCE)


def noted(journal: Journal, what: str, task_id: str) -> bool:
    return wait_until(lambda: journal.values(what, task_id), PATIENCE)


def test_every_pool_moves_on_with_its_broker(
    rabbits: tuple[RabbitMQ, RabbitMQ], redis_server: Redis, tmp_path: Path, unique: str
) -> None:
    """F50: broker a dies by SIGKILL under work; workers and publisher go on on b, each once."""
    a, b = rabbits
    pools = [pool for pool in POOLS if usable(pool)]
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        apps: dict[str, Any] = {}
        for pool in pools:
            settings = {
                "broker_url": f"failover:({a.uri},{b.uri})?randomize=false&timeout=30000",
                "result_backend": redis_server.uri,
                "task_default_queue": f"{unique}-{pool}",
            }
            folder = tmp_path / pool
            folder.mkdir()
            name = f"{pool}-{unique[-8:]}"
            worker = Worker(settings, folder, name=name, pool=pool, concurrency=2)
            workers[pool] = stack.enter_context(worker)
            apps[pool] = stack.enter_context(client(settings))
        held = {}
        for pool in pools:
            workers[pool].wait_ready()
            run_everything(apps[pool], workers[pool].journal)
        for pool in pools:
            held[pool] = apps[pool].tasks["tests.late"].delay(2.0).id
            assert noted(workers[pool].journal, "begin", held[pool])

        a.kill()

        for pool in pools:
            run_everything(apps[pool], workers[pool].journal)
        consumers = b.ctl("list_consumers", "queue_name")
        for pool in pools:
            worker = workers[pool]
            assert noted(worker.journal, "end", held[pool])
            assert len(worker.journal.values("begin", held[pool])) == 1
            assert (
                "was refused by" not in worker.log
            )  # reply queues are declared by their consumers
            assert consumers.split().count(f"{unique}-{pool}") == 1
            inspect = apps[pool].control.inspect([worker.hostname], timeout=30.0)
            assert inspect.ping() == {worker.hostname: {"ok": "pong"}}
            assert inspect.stats()[worker.hostname]["pool"]
            nothing: dict[str, list[Any]] = {worker.hostname: []}
            assert wait_until(lambda: inspect.active() == nothing)  # noqa: B023
            assert worker.connects == 2
            print(f"{pool}: ended {worker.terminate():.1f} s after SIGTERM")
            assert worker.returncode == 0
