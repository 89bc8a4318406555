"""Watches connections while nobody else does: heartbeats out, signs of life in; and alarms.

One daemon thread for each process. A watched connection's `beat` must never block; it returns the
reason when the peer has to be taken for dead, and the watcher's callback is then called with it.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from understudy.failover import forking
from understudy.failover.notifier import logger

__all__ = ["Monitor", "Watched", "monitor"]


W = TypeVar("W", bound="Watched")


class Watched(Protocol):
    @property
    def heartbeat(self) -> float:
        """Seconds; 0 = nothing to watch."""

    def beat(self, now: float) -> str | None:
        """Send a heartbeat if one is due; the reason when the peer is dead, else None."""


class Monitor:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched: weakref.WeakKeyDictionary[Any, Callable[[Any, str], None]] = (
            weakref.WeakKeyDictionary()
        )
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        forking.register(self)

    @contextlib.contextmanager
    def alarm(self, seconds: float, ring: Callable[[], None]) -> Iterator[None]:
        """Call ``ring`` on the monitor's thread unless the block has ended within ``seconds``.

        For what has no timeout of its own, or only one for each byte. ``ring`` must not block.
        """
        with self._lock:
            number = next(self._numbers)
            heapq.heappush(self._alarms, (time.monotonic() + seconds, number, ring))
            self._ensure_thread()
        self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                self._alarms = [alarm for alarm in self._alarms if alarm[1] != number]
                heapq.heapify(self._alarms)

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = forking.start_thread("understudy-monitor", self._run)

    def _ring_alarms(self) -> float | None:
        """Ring what is due; seconds until the next alarm."""
        while True:
            with self._lock:
                if not self._alarms:
                    return None
                left = self._alarms[0][0] - time.monotonic()
                if left > 0:
                    return left
                _, _, ring = heapq.heappop(self._alarms)
            try:
                ring()
            except Exception:
                logger.exception("a bug in understudy: an alarm failed")

    def watch(self, connection: W, on_dead: Callable[[W, str], None]) -> None:
        """Beat this connection until it is gone; call ``on_dead`` once when its peer is dead."""
        if connection.heartbeat <= 0:
            return
        with self._lock:
            self._watched[connection] = on_dead
            self._ensure_thread()
        self._wake.set()

    def forget(self, connection: Watched) -> None:
        with self._lock:
            self._watched.pop(connection, None)

    def _run(self) -> None:
        while True:
            pauses = [self._beat_all(), self._ring_alarms()]
            self._wake.wait(min((p for p in pauses if p is not None), default=None))
            self._wake.clear()

    def _beat_all(self) -> float | None:
        """Beat every connection; seconds until the next round, None while there is none."""
        with self._lock:
            watched = list(self._watched.items())
        now = time.monotonic()
        for connection, on_dead in watched:
            try:
                reason = connection.beat(now)
                if reason is not None:
                    self.forget(connection)
                    on_dead(connection, reason)
            except Exception:
                logger.exception("a bug in understudy: beat failed")
                self.forget(connection)
        return min((c.heartbeat / 8 for c, _ in watched if c.heartbeat > 0), default=None)

    def hold(self) -> None:
        self._lock.acquire()

    def let_go(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None
        self._watched.clear()
        self._alarms.clear()


monitor = Monitor()
