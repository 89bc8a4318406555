"""Celery processes for tests: workers that surely end, and a journal of what their tasks did."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from understudy.testing.celery_app import make_app
from understudy.testing.clock import wait_until

__all__ = ["Journal", "Worker", "celery_command", "client", "environment"]

APP = "understudy.testing.celery_app"
READY = "@test ready."
CONNECTED = "] Connected to "


class Journal:
    """What the tasks of `understudy.testing.celery_app` noted."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def entries(self) -> list[tuple[str, str, str]]:
        """(what, task id, value) in the order of happening."""
        if not self.file.exists():
            return []
        lines = self.file.read_text().splitlines()
        return [(what, key, value) for what, key, value in (line.split(" ", 2) for line in lines)]

    def ids(self, *what: str) -> Counter[str]:
        """How often each task noted one of these."""
        return Counter(key for kind, key, _ in self.entries() if kind in what)

    def values(self, what: str, task_id: str) -> list[str]:
        """What one task noted under a name."""
        return [value for kind, key, value in self.entries() if (kind, key) == (what, task_id)]


def environment(settings: Mapping[str, Any], journal: Path, **more: str) -> dict[str, str]:
    """The environment in which a process finds `understudy.testing.celery_app` so configured."""
    own = {"UNDERSTUDY_CELERY": json.dumps(settings), "UNDERSTUDY_JOURNAL": str(journal)}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CELERY_")}
    return {**clean, **own, **more}


@contextlib.contextmanager
def client(settings: Mapping[str, Any], events: list[Any] | None = None) -> Iterator[Any]:
    """An application that only sends; what its connections went through is added to ``events``.

    A callback of its own keeps it apart from other applications of this process on the same URI.
    """
    told = [] if events is None else events
    options = dict(settings.get("broker_transport_options", {}))
    options["understudy"] = {**options.get("understudy", {}), "on_event": told.append}
    with make_app({**settings, "broker_transport_options": options}, set_as_current=False) as app:
        try:
            yield app
        finally:  # what Celery leaves open
            app.producer_pool.connections.force_close_all()
            results = getattr(app.backend, "result_consumer", None)
            if results is not None and getattr(results, "_connection", None) is not None:
                results.stop()


def celery_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", APP, *arguments]


class Worker:
    """One ``celery worker`` process; leaving the ``with`` kills it and its children."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        *,
        name: str,
        pool: str = "solo",
        concurrency: int = 1,
        options: Sequence[str] = (),
        level: str = "INFO",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.hostname = f"{name}@test"
        self.journal = Journal(folder / "journal")
        self.log_file = folder / f"{name}.log"
        arguments = ("-P", pool, "-c", str(concurrency), "-n", self.hostname, "-l", level, *options)
        self._command = celery_command("worker", *arguments)
        self._env = {**environment(settings, self.journal.file), **(env or {})}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.hostname}, {self.returncode=}>"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> Worker:
        """Start it, without waiting."""
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def wait_ready(self, timeout: float = 60.0) -> Worker:
        """Wait until it consumes for the first time."""
        wait_until(lambda: READY in self.log or self.returncode is not None, timeout)
        if READY not in self.log or self.returncode is not None:
            raise AssertionError(f"{self.hostname} is not ready; its log:\n{self.log}")
        return self

    @property
    def connects(self) -> int:
        """How often its consumer has got a connection."""
        return self.log.count(CONNECTED)

    def terminate(self, timeout: float = 60.0) -> float:
        """SIGTERM, and wait for the end: the seconds that it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.hostname} still runs {timeout:g} s after SIGTERM; its log:\n{self.log}"
            ) from None
        return time.monotonic() - began

    def kill(self) -> None:
        """End it and its pool processes, whatever state they are in."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Worker:
        return self if self._process is not None else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if error is not None:
            print(f"log of {self.hostname}:\n{self.log}")  # pytest shows it with the failure
