"""What has to be known of Celery, without importing it where it is not in use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType

from understudy.failover.deadline import Deadline

__all__ = [
    "UntilStop",
    "called_by_consuming_loop",
    "is_stopping",
    "is_worker",
    "on_shutdown",
    "stop_if_asked",
]

#: modules whose `ensure_connection` waits for a broker for as long as it takes
CONSUMING_LOOPS = frozenset({"celery.worker.consumer.consumer", "celery.beat", "kombu.mixins"})

LOOK_AGAIN = 0.5  # s; how late a blocked main thread may notice its SIGTERM
LOOK_BACK = 25  # frames; kombu's retry machinery is about 10 deep


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


def called_by_consuming_loop() -> bool:
    """Whether a worker, beat or ConsumerMixin waits for its connection (and so has no deadline).

    kombu gives a transport no hint of who asks for a connection. The caller of the innermost
    `Connection.ensure_connection` is that hint: these three loop for ever by design, and an error
    that says "no broker within timeout" would end them.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(LOOK_BACK):
        if frame is None:
            return False
        if frame.f_code.co_name == "ensure_connection":
            caller = frame.f_back
            return caller is not None and caller.f_globals.get("__name__") in CONSUMING_LOOPS
        frame = frame.f_back
    return False


def on_shutdown(flush: Callable[..., object]) -> None:
    """Flush when a worker or one of its child processes ends; prefork children skip atexit."""
    signals = sys.modules.get("celery.signals")
    if signals is None:
        return
    for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
        signal.connect(flush, weak=False, dispatch_uid="understudy-flush")
