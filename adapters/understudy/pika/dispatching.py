"""What a BlockingConnection runs on the thread that processes events: timers and callbacks.

Rules
* Callbacks run with the lock released, on one thread at a time, in the order of what they tell of.
* Timers and callbacks run in an outage too: a program that feeds a watchdog with `call_later` must
  not die because its broker did.
* A callback that raises ends `process_data_events`; what is left to run is run by the next.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pika import exceptions, validators

from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.pika.link_channel import LinkLost
from understudy.pika.session import Session

__all__ = ["Dispatching"]


class _Event:
    """A timer, or a callback that is ready."""

    __slots__ = ("arguments", "callback", "is_cancelled")

    def __init__(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self.callback = callback
        self.arguments = arguments
        self.is_cancelled = False


class Dispatching:
    _session: Session
    _check_open: Callable[[str], None]

    def __init__(self) -> None:
        self._ready_events: deque[_Event] = deque()
        self._timers: list[tuple[float, int, _Event]] = []
        self._numbers = itertools.count(1)
        self._channels_pending_dispatch: set[int] = set()
        self._dispatcher: int | None = None  # the thread that runs callbacks now

    def process_data_events(self, time_limit: float | None = 0) -> None:
        """As pika's: take in what came, run callbacks, for at most ``time_limit`` seconds.

        It goes on over failovers; only giving up raises (ConnectFailed).
        """
        session = self._session
        deadline = Deadline(time_limit)
        me = threading.get_ident()
        with session.lock:
            self._check_open("process_data_events")
            is_callback = self._dispatcher == me
            self._await_work(deadline, lambda: not is_callback and self._can_dispatch)
            if is_callback or not self._can_dispatch:
                return
            self._dispatcher = me
        try:
            self._dispatch()
        finally:
            with session.lock:
                self._dispatcher = None
                session.notify()

    @property
    def _can_dispatch(self) -> bool:
        """Something is ready, and no thread runs callbacks."""
        is_ready = bool(self._ready_events or self._channels_pending_dispatch)
        return is_ready and self._dispatcher is None

    def _await_work(self, deadline: Deadline, is_enough: Callable[[], bool]) -> None:
        """Take in what comes, timers too, until it ``is_enough``. Under the lock."""
        session = self._session

        def is_over() -> bool:
            self._take_timers()
            return is_enough()

        def look() -> None:
            with session.lock:
                if is_over():  # timers and callbacks run in an outage too
                    raise DeadlinePassed

        while True:
            try:
                wire = session.usable(deadline, look)
                moment = min(deadline.moment, self._next_timer())
                if session.wait(wire, is_over, moment) or deadline.remaining() <= 0:
                    return
            except LinkLost:
                continue
            except DeadlinePassed:
                is_over()
                return

    def _dispatch(self) -> None:
        """Run what is ready now, with the lock released."""
        for _ in range(len(self._ready_events)):
            try:
                event = self._ready_events.popleft()
            except IndexError:
                break
            if not event.is_cancelled:
                event.callback(*event.arguments)
        with self._session.lock:
            numbers = list(self._channels_pending_dispatch)
            self._channels_pending_dispatch.clear()
        try:
            while numbers:
                channel = self._session.channels.get(numbers[-1])
                if channel is not None:  # a negative number only ends process_data_events
                    channel._dispatch_events()
                numbers.pop()
        finally:
            if numbers:  # a callback has raised; its channel and the others have more to run
                with self._session.lock:
                    self._channels_pending_dispatch.update(numbers)

    def _request_channel_dispatch(self, channel_number: int) -> None:
        self._channels_pending_dispatch.add(channel_number)

    def _check_not_dispatching(self, name: str) -> None:
        if self._dispatcher == threading.get_ident():
            raise exceptions.ReentrancyError(
                f"{name} may not be called from the scope of another BlockingConnection or "
                "BlockingChannel callback"
            )

    def _next_timer(self) -> float:
        return self._timers[0][0] if self._timers else math.inf

    def _take_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._ready_events.append(heapq.heappop(self._timers)[2])

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Any:
        """As pika's; from any thread."""
        validators.require_callback(callback)
        event = _Event(callback)
        session = self._session
        with session.lock:
            moment = time.monotonic() + delay
            heapq.heappush(self._timers, (moment, next(self._numbers), event))
            session.notify()
        return event

    def remove_timeout(self, timeout_id: Any) -> None:
        """As pika's."""
        if isinstance(timeout_id, _Event):
            timeout_id.is_cancelled = True

    def add_callback_threadsafe(self, callback: Callable[[], Any]) -> None:
        """As pika's: have the thread that processes events call this."""
        session = self._session
        with session.lock:
            self._check_open("add_callback_threadsafe")
            self._ready_events.append(_Event(callback))
            session.notify()

    def _soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._ready_events.append(_Event(callback, *arguments))
