"""The Celery application of the demonstration; publishers and workers load this same module.

Its settings come from the environment, because each process has a broker URL of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from understudy.testing.demo import records

__all__ = ["app", "work"]

app = Celery("understudy-demo")
app.conf.update(
    broker_url=os.environ.get(records.BROKER),
    broker_connection_retry_on_startup=True,  # the default, said aloud; unsaid it is a warning
    task_ignore_result=True,  # no result backend
)
if records.HEARTBEAT in os.environ:
    app.conf.broker_heartbeat = float(os.environ[records.HEARTBEAT])
if records.CONFIRMS in os.environ:
    app.conf.broker_transport_options = {"confirm_publish": True}

_recorders: dict[int, records.Recorder] = {}


def _file(kind: str, suffix: str = "") -> Path:
    return Path(os.environ[records.FOLDER], f"{kind}.{os.environ[records.NAME]}{suffix}")


def _executed() -> records.Recorder:
    """The file of this very process: pool processes are forked, each opens its own."""
    pid = os.getpid()
    if pid not in _recorders:
        _recorders[pid] = records.Recorder(_file(records.EXECUTED, f".{pid}"))
    return _recorders[pid]


def _work(self: Any, number: int) -> None:
    _executed().write(self.request.id, time.monotonic())


work: Any = app.task(name="work", bind=True)(_work)


def _ready(**_: object) -> None:
    _file(records.READY).touch()


worker_ready.connect(_ready, weak=False)
