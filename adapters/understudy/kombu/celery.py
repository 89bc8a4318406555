"""What has to be known of Celery, without importing it where it is not in use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["called_by_consuming_loop", "is_stopping", "is_worker", "on_shutdown", "stop_if_asked"]

#: modules whose `ensure_connection` waits for a broker for as long as it takes
CONSUMING_LOOPS = frozenset({"celery.worker.consumer.consumer", "celery.beat", "kombu.mixins"})

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


def on_shutdown(flush: Callable[[], object]) -> None:
    """Flush when a worker or one of its child processes ends; prefork children skip atexit."""
    signals = sys.modules.get("celery.signals")
    if signals is None:
        return

    def flush_at_shutdown(**_: object) -> None:
        flush()

    for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
        signal.connect(flush_at_shutdown, weak=False, dispatch_uid="understudy-flush")
