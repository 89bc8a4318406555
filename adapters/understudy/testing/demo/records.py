"""How the processes of a run tell each other things: environment, and files that only grow.

A record is a JSON array on a line of its own. Moments are `time.monotonic()`, which on Linux is
one clock for all processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "BROKER",
    "CONFIRMS",
    "ERROR",
    "EXECUTED",
    "FOLDER",
    "GO",
    "HEARTBEAT",
    "NAME",
    "READY",
    "SENT",
]
__all__ += ["QUEUE", "Reader", "Recorder"]

#: the environment of publishers and workers
BROKER = "UNDERSTUDY_DEMO_BROKER"
FOLDER = "UNDERSTUDY_DEMO_FOLDER"
NAME = "UNDERSTUDY_DEMO_NAME"
HEARTBEAT = "UNDERSTUDY_DEMO_HEARTBEAT"  # s, for runs whose URL cannot say it
CONFIRMS = "UNDERSTUDY_DEMO_CONFIRMS"  # set = confirm_publish, likewise

QUEUE = "celery"  # Celery's default

#: files in the folder; all but GO have `.name` after them
GO = "go"  # lets all publishers begin at once
READY = "ready"
SENT = "sent"  # [SENT, task id, begun, returned] or [ERROR, text, begun, raised]
EXECUTED = "executed"  # [task id, moment]; one file per pool process
ERROR = "error"


class Recorder:
    """Appends records; each is one write, so a killed process leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *values: object) -> None:
        os.write(self._file, json.dumps(values).encode() + b"\n")


class Reader:
    """Reads what was appended to a file since the last time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def new(self) -> Iterator[list[Any]]:
        """Yield the records that have come; a line that is not whole yet waits."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        yield from map(json.loads, whole.splitlines())
