"""A daemon thread that does jobs as they come up.

Rules: what is to be done is decided under the owner's condition, and done outside it. The thread
ends with its owner, and after `IDLE_TIME` in which nobody needed it; `ensure` starts it again. At
interpreter exit no thread can be started any more; then `ensure` says so, and whoever waits calls
`work` himself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from understudy.failover import forking
from understudy.failover.notifier import logger

__all__ = ["IDLE_TIME", "Job", "Worker"]

#: what a worker has to do; or the moment when to look again, None = after the next change
Job: TypeAlias = "Callable[[], None] | float | None"

IDLE_TIME = 10.0  # s; well above the pauses between two sends that each open and close a connection


class Worker:
    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        next_job: Callable[[float], Job],
        *,
        is_needed: Callable[[], bool],
        is_over: Callable[[], bool],
    ) -> None:
        """The callables are called with ``changed`` held.

        ``next_job(now)`` gives no job while ``is_needed()`` is false.
        """
        self._name = name
        self._changed = changed
        self._next_job = next_job
        self._is_needed = is_needed
        self._is_over = is_over
        self._thread: threading.Thread | None = None
        self._needed_at = 0.0  # when it was needed last

    def ensure(self) -> bool:
        """Have the thread run, with the condition held; False when it can't be started any more."""
        if self._thread is None:  # is_alive() errs when interrupted
            self._needed_at = time.monotonic()
            self._thread = forking.start_thread(self._name, self._run)
        return self._thread is not None

    def work(self, patience: float) -> None:
        """Do one job, or wait for one for at most ``patience`` seconds."""
        with self._changed:
            now = time.monotonic()
            job = self._next_job(now)
            if not callable(job):
                if not self._is_over():  # its notice may have come before our wait
                    moment = now + patience if job is None else min(job, now + patience)
                    self._changed.wait(max(moment - now, 0.0))
                return
        job()

    def _run(self) -> None:
        while not self._has_ended():
            try:
                self.work(IDLE_TIME)
            except Exception:
                logger.exception("a bug in understudy: %s goes on", self._name)
                time.sleep(1)  # so that a bug that repeats does not burn a CPU

    def _has_ended(self) -> bool:
        with self._changed:
            now = time.monotonic()
            if self._is_needed():
                self._needed_at = now
            if self._is_over() or now - self._needed_at >= IDLE_TIME:
                self._thread = None
                return True
        return False
