"""A daemon thread that does jobs as they come up.

Rules: what is to be done is decided under the owner's condition, and done outside it. The thread
ends when the owner is over. At interpreter exit no thread can be started any more; then `ensure`
says so, and whoever waits calls `work` himself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from understudy.failover import forking
from understudy.failover.notifier import logger

__all__ = ["Job", "Worker"]

#: what a worker has to do; or the moment when to look again, None = after the next change
Job: TypeAlias = "Callable[[], None] | float | None"


class Worker:
    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        next_job: Callable[[float], Job],
        is_over: Callable[[], bool],
    ) -> None:
        """``next_job(now)`` and ``is_over()`` are called with ``changed`` held."""
        self._name = name
        self._changed = changed
        self._next_job = next_job
        self._is_over = is_over
        self._thread: threading.Thread | None = None

    def ensure(self) -> bool:
        """Have the thread run; False when it cannot be started any more."""
        if self._thread is None:  # it ends with its owner; is_alive() errs when interrupted
            self._thread = forking.start_thread(self._name, self._run)
        return self._thread is not None

    def work(self, patience: float | None) -> None:
        """Do one job, or wait for one for at most ``patience`` seconds."""
        with self._changed:
            now = time.monotonic()
            job = self._next_job(now)
            if not callable(job):
                if self._is_over():  # its notice may have come before our wait
                    return
                waits = [] if job is None else [max(job - now, 0.0)]
                waits += [] if patience is None else [patience]
                self._changed.wait(min(waits, default=None))
                return
        job()

    def _run(self) -> None:
        while not self._is_over():
            try:
                self.work(None)
            except Exception:
                logger.exception("a bug in understudy: %s goes on", self._name)
                time.sleep(1)  # so that a bug that repeats does not burn a CPU
