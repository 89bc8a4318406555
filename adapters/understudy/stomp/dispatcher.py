"""Runs the application's listeners, in order, on a thread of their own.

Rules
* The thread that reads the network only queues; it never runs a listener. So a listener may send,
  begin and commit, and one that is slow stops nothing but later listeners' calls.
* The queue is bounded: while `is_full`, the reader reads on only as long as somebody waits for an
  answer of the broker's; TCP then slows the broker down.
* A message that must be acknowledged is dropped when its connection is over before its turn comes:
  the broker delivers it again. One that was acknowledged by its delivery is not.
* A listener that raises is logged, and the next one runs.
* The lock is entered itself, never by its condition; see `failover.control`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from stomp.utils import Frame

from understudy.failover import forking
from understudy.failover.notifier import logger

__all__ = ["Dispatcher", "Job", "receipt_job"]

MOST_JOBS = 1000  # messages, for the most part
MOST_BYTES = 8 << 20  # of bodies; some thousand usual messages, and a few very large ones

#: (kind of the event, its arguments, bytes, whether it still counts when its turn has come)
Job = tuple[str, tuple[Any, ...], int, "Callable[[], bool] | None"]


class Dispatcher:
    def __init__(
        self,
        notify: Callable[..., None],
        on_room: Callable[[], None],
        start_thread: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        """``notify(kind, *arguments)`` runs the listeners; ``on_room()`` says that jobs are done.

        ``start_thread`` starts the thread, if the application wants another kind than we do.
        """
        self.thread: threading.Thread | None = None
        self.bytes = 0
        self._notify = notify
        self._on_room = on_room
        self._start_thread = start_thread
        self._jobs: deque[Job] = deque()
        self._lock = threading.RLock()  # reentrant: a signal handler may queue as well
        self._changed = threading.Condition(self._lock)
        self._is_started = False
        self._is_ending = False
        self._ended = threading.Event()

    @property
    def is_full(self) -> bool:
        return len(self._jobs) >= MOST_JOBS or self.bytes >= MOST_BYTES

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the one that runs the listeners."""
        return self.thread is threading.current_thread()

    def put(self, jobs: Iterable[Job]) -> None:
        """Never waits."""
        with self._lock:
            for job in jobs:
                self._jobs.append(job)
                self.bytes += job[2]
            if not self._is_started:
                self._is_started = True
                self._start()
            self._changed.notify()

    def drop_void(self) -> None:
        """Forget what does not count any more, without waiting for its turn."""
        with self._lock:
            self._jobs = deque(job for job in self._jobs if still_counts(job))
            self.bytes = sum(job[2] for job in self._jobs)

    def _start(self) -> None:
        if self._start_thread is not None:
            self._start_thread(self._run)
        else:
            forking.start_thread("understudy-listeners", self._run)

    def end(self) -> None:
        """Let the thread end when it has done what is queued."""
        with self._lock:
            self._is_ending = True
            if not self._is_started:
                self._ended.set()
            self._changed.notify()

    def abandon(self) -> None:
        """In a forked child: nothing runs the listeners, and what is queued is the parent's."""
        self._lock = threading.RLock()  # the other's owner may be a thread that is no more
        self._changed = threading.Condition(self._lock)
        self._jobs = deque()
        self.bytes = 0

    def wait_ended(self, seconds: float) -> bool:
        """Wait for the end of the thread; at once when called from it."""
        return self.is_mine or self._ended.wait(seconds)

    def _run(self) -> None:
        self.thread = threading.current_thread()
        try:
            while (job := self._next()) is not None:
                self._do(job)
        finally:
            self._ended.set()

    def _next(self) -> Job | None:
        with self._lock:
            while not self._jobs:
                if self._is_ending:
                    return None
                self._changed.wait()
            was_full = self.is_full
            job = self._jobs.popleft()
            self.bytes -= job[2]
            has_room = was_full and not self.is_full
        if has_room:
            self._on_room()
        return job

    def _do(self, job: Job) -> None:
        kind, arguments, *_ = job
        if not still_counts(job):
            return
        try:
            if kind == "message":
                self._notify("before_message", *arguments)
            self._notify(kind, *arguments)
        except Exception:
            logger.exception("a bug in understudy: telling the listeners of %s failed", kind)
        except BaseException:  # sys.exit() in a listener: nobody would hear anything any more
            logger.exception("on_%s of a listener tried to end the thread", kind)


def still_counts(job: Job) -> bool:
    return job[3] is None or job[3]()


def receipt_job(receipt: str) -> Job:
    """A RECEIPT that the application asked for, under its own name for it."""
    return "receipt", (Frame("RECEIPT", {"receipt-id": receipt}, ""),), 0, None
