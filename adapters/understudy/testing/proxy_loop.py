"""One background thread with a selector: sockets, timers, and calls from other threads.

All state of a proxy lives in this thread. Other threads change it only through ``call``, which runs
a function here and waits for it: when it returns, the change is in force. Called from the thread
itself (by a callback), it runs the function at once.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["Loop"]

T = TypeVar("T")

Handler = Callable[[int], None]


class Loop:
    """The thread. ``start`` and ``stop`` are called once each."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._selector = selectors.DefaultSelector()
        self._masks: dict[socket.socket, int] = {}
        self._timers: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        self._calls: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._is_stopping = False
        self._lock = threading.Lock()  # between a late call and the end of the thread
        self._is_over = False
        self._waker, self._wakee = socket.socketpair()
        for end in (self._waker, self._wakee):
            end.setblocking(False)

    def start(self) -> None:
        self.watch(self._wakee, selectors.EVENT_READ, self._woken)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; from within the thread, only ask it to end."""
        self._is_stopping = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` in the thread and return what it returns."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()
        with self._lock:
            if self._is_over:
                raise RuntimeError("the proxy is closed")
            self._calls.append((function, future))  # type: ignore[arg-type]  # T, as it is called
        self._wake()
        return future.result()

    def call_at(self, token: Hashable, when: float | None, function: Callable[[], None]) -> None:
        """Run ``function`` at ``when``; one per token, the last one counts; None = not any more."""
        if when is None:
            self._timers.pop(token, None)
        else:
            self._timers[token] = (when, function)

    def watch(self, sock: socket.socket, mask: int, handler: Handler) -> None:
        """Call ``handler(events)`` when the socket is ready for ``mask``; 0 = not any more."""
        known = self._masks.get(sock, 0)
        if mask == known or self._is_over:
            return
        if mask == 0:
            self._selector.unregister(sock)
        elif known == 0:
            self._selector.register(sock, mask, handler)
        else:
            self._selector.modify(sock, mask, handler)
        if mask:
            self._masks[sock] = mask
        else:
            del self._masks[sock]

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full = awake already; closed = over
            self._waker.send(b"!")

    def _woken(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakee.recv(4096):
                pass

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                for key, events in self._selector.select(self._timeout()):
                    key.data(events)
                self._run_calls()
                self._run_timers()
        finally:
            self._end()

    def _timeout(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, min(when for when, _ in self._timers.values()) - time.monotonic())

    def _run_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except Exception as exc:
                future.set_exception(exc)

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        for token, (when, function) in list(self._timers.items()):
            if when <= now and self._timers.pop(token, None) is not None:
                function()

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
        while self._calls:
            self._calls.popleft()[1].set_exception(RuntimeError("the proxy is closed"))
        self._selector.close()
        self._waker.close()
        self._wakee.close()
