"""Publishers and workers: processes that cannot outlive this one, stopped by their own ids."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from understudy.testing.brokers.leash import Leash
from understudy.testing.demo import records
from understudy.testing.demo.plan import Contestant, Load

__all__ = ["Child", "publisher", "wait_for_end", "worker"]

#: what a child needs of our environment; a CELERY_BROKER_URL in it would go before every setting
INHERITED = ("HOME", "PATH", "PYTHONPATH", "TMPDIR")


class Child:
    """One Python process with all its descendants; runs from construction until ``kill()``."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: dict[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._ready = folder / f"{records.READY}.{name}"
        inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
        self._leash = Leash()
        self._leash.spawn(
            [sys.executable, *arguments],
            env={
                **inherited,
                **environment,
                "LANG": "C.UTF-8",
                records.FOLDER: str(folder),
                records.NAME: name,
            },
            cwd=folder,
            log=self.log,
        )

    @property
    def is_ready(self) -> bool:
        """True when it has said so."""
        return self._ready.exists()

    @property
    def is_running(self) -> bool:
        return self._leash.pid is not None

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._leash.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started; idempotent."""
        self._leash.close()

    def log_tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def publisher(number: int, contestant: Contestant, load: Load, folder: Path) -> Child:
    """Start a publisher; it sends when the file GO is there."""
    return Child(
        f"publisher-{number}",
        ["-m", "understudy.testing.demo.publisher", str(load.interval)],
        _environment(contestant, contestant.publisher_url),
        folder,
    )


def worker(broker: str, contestant: Contestant, load: Load, folder: Path) -> Child:
    """Start the ``celery worker`` that consumes from one broker."""
    program = ["-m", "celery", "-A", "understudy.testing.demo.app", "worker"]
    options = ["-n", f"{broker}@demo", "-c", str(load.concurrency), "-l", "WARNING"]
    return Child(
        broker,
        [*program, *options],
        _environment(contestant, contestant.worker_urls[broker]),
        folder,
    )


def _environment(contestant: Contestant, url: str) -> dict[str, str]:
    environment = {records.BROKER: url}
    if contestant.heartbeat is not None:
        environment[records.HEARTBEAT] = str(contestant.heartbeat)
    if contestant.confirms:
        environment[records.CONFIRMS] = "yes"
    return environment


def wait_for_end(children: Sequence[Child], seconds: float, tick: Callable[[], None]) -> list[str]:
    """Ask all to stop; kill those that have not within this time, and return their names."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + seconds
    while any(child.is_running for child in children) and time.monotonic() < deadline:
        tick()
    late = [child.name for child in children if child.is_running]
    for child in children:
        child.kill()
    return late
