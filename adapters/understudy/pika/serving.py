"""Waiting for what comes on a wire, by any number of threads at once.

Rules
* One lock for everything that belongs to the connection. It is never held while anybody waits for
  the network, nor while a callback of the application's runs.
* Whoever waits for something serves the wire himself: the first one polls it (`_polling`), with the
  lock released, takes in what came, and tells the others, who wait for that. The monitor serves it
  where nobody does.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import starmap
from typing import Any, TypeVar

from understudy.failover.polling import Wakeup
from understudy.failover.waiters import Waiter, Waiters
from understudy.pika.wire import Wire

__all__ = ["Serving"]

T = TypeVar("T")


class Serving:
    wakeup: Wakeup  # sockets: made last by who else may fail to be made

    def __init__(self) -> None:
        self.lock = (
            threading.RLock()
        )  # a signal handler may publish; entered itself, see supervisor
        self.wire: Wire | None = None
        self._is_over = False  # no wire comes any more: the last one to poll closes the wakeup
        self._polling = False
        self._poller = 0  # the thread that does
        self._waiters = Waiters()  # threads that wait for what another one does

    def wait(self, wire: Wire, is_over: Callable[[], bool], moment: float = math.inf) -> bool:
        """With the lock held: serve ``wire`` until ``is_over``; False at the moment (monotonic).

        The wire is served at least once. Raises LinkLost.
        """
        served = False
        while not is_over():
            if wire.lost is not None:
                raise wire.lost
            left = math.inf if moment == math.inf else moment - time.monotonic()
            if left <= 0 and served:
                return False
            if self._polling and self._poller != threading.get_ident():
                if wire.wants_room:
                    self.wakeup.set()
                self._wait_for_change(left)
                served = True
                continue
            if left > 0:
                self._poll(wire, left)
            wire.serve()
            served = True
            self._waiters.ring()
        return True

    def _poll(self, wire: Wire, seconds: float) -> None:
        before = self._polling  # within a signal handler that has interrupted this very poll
        try:
            self._polling = wire.is_polled = True
            self._poller = threading.get_ident()
            self._without_lock(partial(wire.poll, seconds, self.wakeup))
        finally:
            self._polling = wire.is_polled = before
            if before:
                self.wakeup.set()  # what it waits for may have been read in here
            self._waiters.ring()  # one of them goes on polling
            if wire is not self.wire:
                wire.close()
            if self._is_over:
                self.wakeup.close()

    def _wait_for_change(self, seconds: float) -> None:
        waiter = Waiter()
        try:
            self._waiters.add(waiter)
            longest = min(max(seconds, 0.0), threading.TIMEOUT_MAX)
            self._without_lock(partial(waiter.wait, longest))
        finally:
            self._waiters.discard(waiter)

    def _without_lock(self, do: Callable[[], T]) -> T:
        """Let go of the lock, however deep it is held, while this is done.

        A signal handler may raise between any two calls here, but not within one call into C: so
        the lock is never given up without a note of it, and never taken twice.
        """
        lock, held = self.lock, list[Any]()
        try:
            held.extend(starmap(lock._release_save, ((),)))  # type: ignore[attr-defined]
            return do()
        finally:
            if held:
                lock._acquire_restore(held[0])  # type: ignore[attr-defined]

    def notify(self) -> None:
        """Let every waiting thread look again whether its wait is over."""
        self._waiters.ring()
        if self._polling:
            self.wakeup.set()

    def _close_wakeup(self) -> None:
        self._is_over = True
        if not self._polling:
            self.wakeup.close()

    def _abandon_waits(self) -> None:
        """In a forked child nobody else waits."""
        self.lock = threading.RLock()
        self.wakeup.close()
        self._polling = False
        self._waiters = Waiters()
