"""A Celery application for tests, the same in worker processes and for whoever sends to them.

A worker takes its settings from the JSON object in ``UNDERSTUDY_CELERY``. What its tasks did stands
in the journal, the file ``UNDERSTUDY_JOURNAL``: one line for each thing done, written at once, so
that it survives whatever becomes of the worker. With a Redis URL in ``UNDERSTUDY_WINDOW`` there are
also tasks that drop duplicates.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery

__all__ = ["app", "make_app", "note"]

_tasks: list[tuple[Callable[..., Any], dict[str, Any]]] = []


def make_app(settings: Mapping[str, Any], **options: Any) -> Any:
    """An application with these settings and with all the tasks, ``tests.<function>``."""
    made = Celery("understudy_tests", **options)
    made.conf.update(settings)
    for function, task_options in _tasks:
        made.task(name=f"tests.{function.__name__}", bind=True, shared=False, **task_options)(
            function
        )
    return made


def note(what: str, task_id: str, value: object) -> None:
    """One line in the journal; several processes may write to it."""
    line = f"{what} {task_id} {value}\n".encode()
    journal = os.open(os.environ["UNDERSTUDY_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(journal, line)
    finally:
        os.close(journal)


def task(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _tasks.append((function, options))
        return function

    return register


@task(ignore_result=True)
def mark(self: Any, value: object = None) -> None:
    """Note that it ran."""
    note("mark", self.request.id, value)


@task()
def add(self: Any, x: int, y: int) -> int:
    return x + y


@task()
def total(self: Any, numbers: list[int]) -> int:
    return sum(numbers)


@task(ignore_result=True, acks_late=True)
def late(self: Any, seconds: float) -> None:
    """Work that is acknowledged after it."""
    note("begin", self.request.id, seconds)
    time.sleep(seconds)
    note("end", self.request.id, seconds)


@task(ignore_result=True, max_retries=5)
def stubborn(self: Any, failures: int, countdown: float) -> None:
    """Fail that often, and be tried again each time."""
    note("try", self.request.id, self.request.retries)
    if self.request.retries < failures:
        raise self.retry(countdown=countdown)


@task(ignore_result=True)
def spread(self: Any, count: int) -> None:
    """Publish that many tasks from within the worker, and note each once it counts as sent."""
    for number in range(count):
        note("sent", self.app.tasks["tests.mark"].delay(number).id, number)


def _add_once_tasks(url: str) -> None:
    from understudy.duplicates import DuplicateWindow
    from understudy.duplicates.celery import once
    from understudy.duplicates.redis import RedisStore

    base = once(DuplicateWindow(RedisStore(url, "tests")))

    @task(base=base, ignore_result=True, acks_late=True)
    def late_once(self: Any, seconds: float) -> None:
        note("begin", self.request.id, seconds)
        time.sleep(seconds)
        note("end", self.request.id, seconds)

    @task(base=base, ignore_result=True, acks_late=True, max_retries=5)
    def stubborn_once(self: Any, failures: int) -> None:
        note("try", self.request.id, self.request.retries)
        if self.request.retries < failures:
            raise self.retry(countdown=0)


if "UNDERSTUDY_WINDOW" in os.environ:
    _add_once_tasks(os.environ["UNDERSTUDY_WINDOW"])

app = make_app(json.loads(os.environ.get("UNDERSTUDY_CELERY", "{}")))
