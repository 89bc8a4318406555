"""Tells the application what happens: the log, and the callback given as ``on_event``.

Rules: callbacks run in order on a thread of their own, never under a lock of ours. A slow callback
delays only later callbacks; one that raises is logged. What does not fit into the queue any more is
dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

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
from understudy.failover import forking

__all__ = ["EventCallback", "Notifier", "logger"]

logger = logging.getLogger("understudy")

EventCallback = Callable[[Event], object]

QUEUE_SIZE = 1000  # events; far more than a healthy callback ever leaves waiting

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


class Notifier:
    """One for each supervisor."""

    def __init__(self, callback: EventCallback | None = None) -> None:
        self.dropped = 0
        self._callback = callback
        self._closed = False
        self._queue: queue.Queue[Event | None] = queue.Queue(QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Log the event and hand it to the callback's thread; never blocks, never raises."""
        event = replace(event, time=time.time())
        level, line = LOG_LINES[type(event)]
        logger.log(level, line.format_map(vars(event)))
        if self._callback is None:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1
            return
        self._ensure_thread()

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = forking.start_thread("understudy-events", self._run)

    def _run(self) -> None:
        while True:
            event = self._queue.get()
            if event is None:
                return
            assert self._callback is not None
            try:
                self._callback(event)
            except Exception:
                logger.exception("on_event failed for %r", event)
            if self._closed and self._queue.empty():
                return

    def close(self) -> None:
        """Let the thread end once it has told what is queued."""
        self._closed = True  # for a thread whose queue is full
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
