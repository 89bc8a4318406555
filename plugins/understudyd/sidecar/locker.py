"""The lock's backend on a thread of its own, for a keeper that never waits.

Rules
* One call at a time. The keeper gives one up at the moment that its own time-out ends it, or
  earlier; so the next attempt begins when it comes back, if the keeper waits for it still.
* An answer that nobody waits for any more is dropped here. What it would have shown is read again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from understudy.core.redact import redact
from understudyd.lock.port import Inheritable, LockBackend, Observation, Unavailable, Waitable
from understudyd.lock.record import RecordError
from understudyd.lock.words import Failed, Hint, Read, Seen, Swap
from understudyd.sidecar.worker import Worker

__all__ = ["Locker"]

FIRST_PAUSE = 0.004  # s; a guard that writes the tombstone takes the lock for about as long

Tell: TypeAlias = Callable[[Seen | Failed | Hint], None]


class Locker:
    def __init__(self, backend: LockBackend, tell: Tell) -> None:
        """``tell`` is called from another thread, once for each attempt at most."""
        self._backend = backend
        self._tell = tell
        self._worker = Worker("understudy-lock", self._answer)
        self._waiter = Worker("understudy-lock-hint", self._hint)
        self._pause = 0.0  # s before it is asked again
        self._wanted = 0  # the attempt whose answer the keeper waits for
        self._next: Read | Swap | None = None  # to be begun after the call under way
        self._turn = threading.Lock()  # of `_next`
        self._is_to_close = False

    @property
    def is_told(self) -> bool:
        """Whether the backend tells that the lock may be free."""
        return isinstance(self._backend, Waitable)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the broker has to inherit, of a lock that we hold."""
        backend = self._backend
        descriptor = backend.descriptor if isinstance(backend, Inheritable) else None
        return () if descriptor is None else (descriptor,)

    def hand_on(self) -> int | None:
        """The descriptor of a lock that we hold, to outlive an exec."""
        for descriptor in self.descriptors:
            os.set_inheritable(descriptor, True)
            return descriptor
        return None

    def attempt(self, action: Read | Swap) -> None:
        with self._turn:
            given_up, self._wanted = self._wanted, action.attempt
            is_begun = self._begin(action)
            self._next = None if is_begun else action
        if not is_begun:
            self._tell(Failed(given_up, "no answer in time"))

    def wait_for_change(self, longest: float) -> None:
        """Tell a Hint when the lock may be free, where the backend can know it.

        Call it again after each look that found it taken. A backend that returns without a reason,
        or fails, is asked less and less often, down to once in ``longest`` seconds.
        """
        backend = self._backend
        if isinstance(backend, Waitable):
            self._waiter.do(lambda: self._wait(backend, longest))

    def _wait(self, backend: Waitable, longest: float) -> bool:
        """Whether it is worth while to look."""
        time.sleep(self._pause)
        begun = time.monotonic()
        is_worthwhile = False
        with contextlib.suppress(Unavailable):
            backend.await_change()
            is_worthwhile = True
        is_early = time.monotonic() < begun + longest
        self._pause = min(longest, max(FIRST_PAUSE, 2 * self._pause)) if is_early else 0.0
        return is_worthwhile

    def _hint(self, is_worthwhile: bool) -> None:
        if is_worthwhile:
            self._tell(Hint())

    def close(self) -> None:
        """Close the backend, after the call under way and before the next attempt."""
        with self._turn:
            self._next = None  # of before: a renewal, say, which would be a claim by then
            self._is_to_close = True

    def _call(self, action: Read | Swap) -> Seen | Failed:
        self._close_if_asked()
        answer: Seen | Failed
        try:
            answer = Seen(action.attempt, self._ask(action))
        except (Unavailable, RecordError) as error:
            answer = Failed(action.attempt, str(error))
        except Exception as error:  # a third party's backend; whatever it is, nothing is known
            answer = Failed(action.attempt, redact(f"{type(error).__name__}: {error}"))
        self._close_if_asked()
        return answer

    def _begin(self, action: Read | Swap) -> bool:
        return self._worker.do(lambda: self._call(action))

    def _answer(self, answer: Seen | Failed) -> None:
        with self._turn:
            if self._next is not None and self._begin(self._next):
                self._next = None
        if answer.attempt == self._wanted:
            self._tell(answer)

    def _ask(self, action: Read | Swap) -> Observation:
        if isinstance(action, Read):
            return self._backend.read()
        return self._backend.swap(action.expected, action.record)

    def _close_if_asked(self) -> None:
        if self._is_to_close:
            self._is_to_close = False
            self._backend.close()
