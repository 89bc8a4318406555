"""Tells the application what happens: the log, and the callback given as ``on_event``.

Rules
* Log handlers and callbacks run in order on a thread of their own, never under a lock of ours and
  never on a thread that others wait for: a handler may itself publish through us, and holds the
  lock of `logging` meanwhile. `tell` and `log` only queue, and never block.
* A slow callback delays only later tellings; one that raises is logged. What does not fit into the
  queue any more is dropped and counted.
* The thread ends when nothing was told for `IDLE_TIME`. Where none can be started any more
  (interpreter exit) the caller tells it himself; and the interpreter waits for what is queued, for
  `EXIT_PATIENCE` at most.
* A fork waits for a line that is being logged, for `FORK_PATIENCE` at most: the child would inherit
  a stream whose lock is held by a thread that is no more.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from understudy.core.events import (
    Blocked,
    Connected,
    EndpointsChanged,
    Event,
    GaveUp,
    Interrupted,
    MessageFailed,
    Resumed,
    SlowReconnect,
    Unblocked,
)
from understudy.errors import ConfigurationError
from understudy.failover import forking
from understudy.failover.deadline import Deadline

__all__ = ["EventCallback", "Notifier", "checked_callback", "logger", "settle"]

logger = logging.getLogger("understudy")

EventCallback = Callable[[Event], object]


def checked_callback(given: EventCallback | None) -> EventCallback | None:
    """Raises ConfigurationError for an ``on_event`` that can't be called."""
    if given is None or callable(given):
        return given
    raise ConfigurationError(f"on_event must be callable with one event, not {given!r}")


QUEUE_SIZE = 1000  # events; far more than a healthy callback ever leaves waiting
IDLE_TIME = 10.0  # s
EXIT_PATIENCE = 1.0  # s
FORK_PATIENCE = 1.0  # s; a log handler that publishes may wait for a broker

LOG_LINES: dict[type[Event], tuple[int, str]] = {
    Connected: (logging.INFO, "connected to {endpoint}"),
    Resumed: (logging.INFO, "connected again, to {endpoint}"),
    Interrupted: (logging.WARNING, "connection to {endpoint} interrupted: {reason}"),
    SlowReconnect: (logging.WARNING, "still not connected: {reason}"),
    EndpointsChanged: (logging.INFO, "the known endpoints are now: {reason}"),
    Blocked: (logging.WARNING, "{endpoint} blocks publishers: {reason}"),
    Unblocked: (logging.INFO, "{endpoint} takes messages again"),
    MessageFailed: (logging.ERROR, "message {message_id} failed: {reason}"),
    GaveUp: (logging.ERROR, "{reason}"),
}

_notifiers: weakref.WeakSet[Notifier] = weakref.WeakSet()


class Notifier:
    """One for each supervisor."""

    def __init__(self, callback: EventCallback | None = None) -> None:
        self.dropped = 0
        self._callback = callback
        self._closed = False
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # of _thread; a signal handler may tell something too
        self._logging = threading.RLock()  # held while a handler runs
        self._was_held = False
        self._generation = forking.generation()
        _notifiers.add(self)

    def tell(self, event: Event) -> None:
        """Have the event logged and handed to the callback; never blocks, never raises."""
        event = replace(event, time=time.time())
        level, line = LOG_LINES[type(event)]
        self._put(partial(self._tell, level, line.format_map(vars(event)), event))

    def log(self, level: int, text: str) -> None:
        """Have a line logged, in order with the events; never blocks, never raises."""
        self._put(partial(self._log, level, text))

    def settle(self, seconds: float) -> bool:
        """Wait until all that was told so far has arrived; False if it takes longer."""
        if self._generation != forking.generation():
            return True
        told = threading.Event()
        with self._lock:  # under which an idle thread ends
            if self._thread is None:
                return True
            self._queue.put(told.set)
        return told.wait(seconds)

    def close(self) -> None:
        """Let the thread end once it has told what is queued."""
        self._closed = True
        self._queue.put(lambda: None)  # wakes it

    def _put(self, telling: Callable[[], object]) -> None:
        if self._queue.qsize() >= QUEUE_SIZE:
            self.dropped += 1
            return
        self._queue.put(telling)
        with self._lock:
            if self._thread is None:  # it sets it back; is_alive() errs when interrupted
                self._thread = forking.start_thread("understudy-events", self._run)
            is_ours = self._thread is None
        while is_ours and self._tell_next(0.0):
            pass

    def _run(self) -> None:
        while self._tell_next(IDLE_TIME):
            pass

    def _tell_next(self, patience: float) -> bool:
        """Tell one thing, or wait for it for so many seconds; False if nothing more is to come."""
        try:
            telling = self._queue.get(timeout=0.0 if self._closed else patience)
        except queue.Empty:
            with self._lock:
                if self._queue.empty():
                    self._thread = None
                    return False
            return True
        telling()
        return True

    def _log(self, level: int, line: str) -> None:
        with self._logging:
            logger.log(level, line)

    def _tell(self, level: int, line: str, event: Event) -> None:
        self._log(level, line)
        if self._callback is None:
            return
        try:
            self._callback(event)
        except BaseException:  # the thread tells what comes next too
            with self._logging:
                logger.exception("on_event failed for %r", event)

    def hold(self) -> None:
        """Before a fork; by the supervisor, before it takes its own lock (see `forking`)."""
        self._was_held = self._logging.acquire(timeout=FORK_PATIENCE)

    def let_go(self) -> None:
        if self._was_held:
            self._logging.release()


def settle(seconds: float) -> bool:
    """Wait until all that was told so far, by anyone, has arrived; False if it takes longer."""
    limit = Deadline(seconds)
    return all(notifier.settle(limit.remaining()) for notifier in list(_notifiers))


atexit.register(settle, EXIT_PATIENCE)
