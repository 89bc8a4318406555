"""What has to be known of Celery, without importing it where it is not in use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from understudy.failover.deadline import Deadline

__all__ = [
    "UntilStop",
    "is_stopping",
    "is_worker",
    "on_shutdown",
    "stop_if_asked",
]

LOOK_AGAIN = 0.5  # s; how late a blocked main thread may notice its SIGTERM


def is_worker() -> bool:
    """Whether this process is a Celery worker, or one of its children."""
    return "celery.worker.consumer.consumer" in sys.modules


def is_stopping() -> bool:
    """Whether this process is a worker that was asked to stop."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    wishes = (state.should_stop, state.should_terminate)
    return any(wish is not None and wish is not False for wish in wishes)


def stop_if_asked() -> None:
    """Raise WorkerShutdown or WorkerTerminate in a worker that was asked to stop.

    A worker that waits for a broker inside our loop would otherwise not see its SIGTERM.
    """
    state = sys.modules.get("celery.worker.state")
    if state is not None and threading.current_thread() is threading.main_thread():
        state.maybe_shutdown()


class UntilStop(Deadline):
    """Another deadline, but soon after this worker was asked to stop at the latest.

    Its main thread sends events too, and sees its SIGTERM only in between.
    """

    __slots__ = ("_grace", "_stop")

    def __init__(self, other: Deadline, grace: float) -> None:
        """``grace``: seconds from the first look at it after the request to stop."""
        super().__init__(other.seconds)
        self._at = other.moment
        self._grace = grace
        self._stop: Deadline | None = None

    def remaining(self) -> float:
        left = super().remaining()
        if self._stop is None and is_stopping():
            self._stop = Deadline(self._grace)
        return left if self._stop is None else min(left, self._stop.remaining())

    def timeout(self) -> float:
        """At most a short while, so that it is looked at again."""
        return min(self.remaining(), LOOK_AGAIN)


def on_shutdown(flush: Callable[..., object]) -> None:
    """Flush when a worker or one of its child processes ends; prefork children skip atexit."""
    signals = sys.modules.get("celery.signals")
    if signals is None:
        return
    for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
        signal.connect(flush, weak=False, dispatch_uid="understudy-flush")
