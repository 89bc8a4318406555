"""What blocks runs elsewhere: an inbox for answers, and threads that do one thing at a time.

Rules
* A call that does not come back is waited for by its thread alone. What its thread should do next
  meanwhile is refused at once, so threads do not pile up behind a dead mount or a deaf server.
* A job should not raise. One that does is told to the log, once for each error, and its thread goes
  on: the job counts as one that does not come back, and whoever waits for that has a limit.
* The threads are daemons: none of them keeps the sidecar from ending.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from understudy.core.redact import redact

__all__ = ["Inbox", "Worker", "are_interruptible"]

T = TypeVar("T")
log = logging.getLogger("understudy.sidecar")


class Inbox(Generic[T]):
    """Events from all threads, for one that waits on descriptors."""

    def __init__(self) -> None:
        self._events: deque[T] = deque()
        self._signal = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._signal

    def put(self, event: T, *, can_wait: bool = False) -> None:
        """From any thread, and from signal handlers. ``can_wait``: it wakes nobody."""
        self._events.append(event)
        if can_wait:
            return
        with contextlib.suppress(BlockingIOError):  # it is signalled as loud as can be
            os.eventfd_write(self._signal, 1)

    def holds(self, kind: type) -> bool:
        """Whether such an event waits to be taken."""
        return any(isinstance(event, kind) for event in tuple(self._events))

    def take(self) -> list[T]:
        """All that came since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._signal)
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def close(self) -> None:
        os.close(self._signal)


class Worker(Generic[T]):
    """A thread for one kind of call."""

    def __init__(self, name: str, tell: Callable[[T], None]) -> None:
        """``tell`` gets what each job returned, from the thread, which is free again by then."""
        self._name = name
        self._tell = tell
        self._jobs: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
        self._is_busy = threading.Lock()
        self._thread: threading.Thread | None = None
        self._told = ""  # the error that was told last

    def do(self, job: Callable[[], T]) -> bool:
        """Begin ``job``; False if the one before is still under way."""
        if not self._is_busy.acquire(blocking=False):
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)
        return True

    def wait(self, patience: float) -> bool:
        """Whether the job under way, if there is one, ends within so many seconds."""
        if not self._is_busy.acquire(timeout=patience):
            return False
        self._is_busy.release()
        return True

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                told = job()
            except Exception as error:
                self._complain(error)
                continue
            finally:
                del job
                self._is_busy.release()
            self._tell(told)

    def _complain(self, error: Exception) -> None:
        text = redact(f"{type(error).__name__}: {error}")
        if text != self._told:
            self._told = text
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error(f"{self._name} failed, and goes on: {text}\n{where.rstrip()}")


def are_interruptible(tasks: Path = Path("/proc/self/task")) -> bool:
    """Whether all threads can be ended at once; an exec would wait for one that sits in a dead
    mount, say (state D of proc(5))."""
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if (task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"D":
                return False
    return True
