"""The duplicate window: tells a consumer, or drops when asked, what it has already processed.

Rules
* A message is never dropped on suspicion. No id, an id that is not remembered, a store that fails:
  the message is new. Only an id whose work was reported as done makes a duplicate.
* Done is said after the work, and before the broker gets its acknowledgement: a crash in between
  brings the message back, and it is recognised; a crash earlier brings it back as new.
* Two copies at the same moment (the resend of a send in doubt; a redelivery while the first
  delivery is still worked on): the second waits until the first is done or has failed, at most
  for ``lease`` seconds, by its own clock; then it is processed. So a crash in the middle costs a
  delay, never the message; and work that takes longer than the lease may be done twice.
* A block that ends in an exception, or says `Processing.failed`, is not done: its message counts
  as new when it comes again.
* A store that has failed is left alone for as long as its failure took, within `SHORTEST_REST` and
  `LONGEST_REST`: one that says nothing takes at most half of a consumer's time. Until then messages
  count as new, and what is done is not remembered.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from understudy.core.redact import redact
from understudy.duplicates.ids import find_message, message_id
from understudy.duplicates.memory import MemoryStore
from understudy.duplicates.store import Store, Verdict
from understudy.errors import ConfigurationError
from understudy.failover.deadline import Deadline
from understudy.failover.notifier import logger

__all__ = ["DuplicateWindow", "Processing"]

T = TypeVar("T")

FIRST_PAUSE = 0.005  # s between two looks at a claim of somebody else; doubled each time
LONGEST_PAUSE = 0.2
SHORTEST_REST = 1.0  # s; a store that fails at once would be asked twice for each message
LONGEST_REST = 30.0  # s; a store that works again is used again within that
LONGEST_KEY = 256  # characters; AMQP's message_id ends at 255, a header may have any length

#: how kombu notes that a message went back, or to its dead-letter exchange, which may bring it back
NOT_DONE = frozenset({"REQUEUED", "REJECTED"})


class DuplicateWindow:
    """A bounded record of what was processed; one for each kind of work."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        lease: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``store`` is a `MemoryStore` unless said otherwise.

        ``lease`` is in seconds: longer than the work on one message, as a copy of a message whose
        consumer has crashed has to wait that long; shorter than any time limit of that work.
        ``clock`` is what a failing store's rest is measured by.
        """
        is_number = isinstance(lease, int | float) and not isinstance(lease, bool)
        if not is_number or not lease > 0:
            raise ConfigurationError(f"lease must be a number of seconds above 0; {lease!r} is not")
        self._store: Store = MemoryStore() if store is None else store
        self._lease = lease
        self._clock = clock
        self._is_failing = False
        self._rests_until = -math.inf

    def __repr__(self) -> str:
        return f"<DuplicateWindow {self._store!r}>"

    def processing(self, message: Any) -> Processing:
        """A block that works on a message; use it as ``with`` or, in coroutines, ``async with``.

        ```python
        with window.processing(message) as is_new:
            if is_new:
                work(message)
        message.ack()
        ```
        ``message`` is what `message_id` understands.
        """
        return Processing(self, message)

    def once(
        self, callback: Callable[..., object], *, duplicate: Callable[..., object]
    ) -> Callable[..., None]:
        """A callback that drops duplicates; for kombu, pika and stomp.py alike.

        Gives new messages to ``callback`` and the others to ``duplicate``, with the same arguments;
        that one should only acknowledge them. ``callback`` raises when a message was not processed.
        """
        if inspect.iscoroutinefunction(callback):
            raise TypeError("a coroutine function: use `async with window.processing(...)` in it")

        @functools.wraps(callback)
        def wrapped(*arguments: Any) -> None:
            with self.processing(find_message(arguments)) as is_new:
                if is_new:
                    callback(*arguments)
            if not is_new:
                duplicate(*arguments)

        return wrapped

    def is_done(self, message: Any) -> bool:
        """Whether this message was processed; False without an id, or when the store fails."""
        key = _key_of(message)
        return key is not None and self._ask(False, self._store.is_done, key)

    def done(self, message: Any) -> None:
        """This message was processed, in whatever way; without an id nothing can be remembered."""
        key = _key_of(message)
        if key is not None:
            self._ask(None, self._store.done, key, "")

    def close(self) -> None:
        """Close the store; what it remembers stays, except in memory."""
        self._store.close()

    def _ask(self, otherwise: T, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Its answer, or ``otherwise`` when it fails or rests; the first of a row is logged.

        Threads may ask at the same time: each failure counts, the latest end of a rest holds.
        """
        begin = self._clock()
        if begin < self._rests_until:
            return otherwise
        try:
            answer = call(*arguments, **options)
        except Exception as exc:
            end = self._clock()
            rest = min(max(end - begin, SHORTEST_REST), LONGEST_REST)
            self._rests_until = max(self._rests_until, end + rest)
            if not self._is_failing:
                self._is_failing = True
                cause = redact(f"{type(exc).__name__}: {exc}")
                logger.warning("%r fails, messages count as new meanwhile: %s", self, cause)
            return otherwise
        if self._is_failing:
            self._is_failing = False
            logger.info("%r works again", self)
        return answer


class Processing:
    """The work on one message; true when it is new. What ``with window.processing()`` gives."""

    def __init__(self, window: DuplicateWindow, message: Any) -> None:
        self._window = window
        self._store = window._store
        self._message = message
        self._key = _key_of(message)
        self._owner = uuid.uuid4().hex
        self._lock = threading.Lock()  # of `_try` and `_abandon`, which may be in two threads
        self._is_new = True
        self._has_failed = False
        self._is_over = False

    def __bool__(self) -> bool:
        return self._is_new

    def __repr__(self) -> str:
        kind = "new" if self._is_new else "duplicate"
        return f"<Processing {self._key or 'a message without id'}: {kind}>"

    def failed(self) -> None:
        """The message was not processed (put back, rejected, handed on); it may come again."""
        self._has_failed = True

    # --- for a block ----------------------------------------------------------------------------

    def __enter__(self) -> Processing:
        if _is_in_event_loop():
            raise RuntimeError("in a coroutine, use `async with window.processing(...)`")
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(kind is None)

    async def __aenter__(self) -> Processing:
        """As ``with``; waits and asks the store without stopping the event loop."""
        try:
            for pause in self._pauses():
                if await asyncio.to_thread(self._try, False):
                    return self
                await asyncio.sleep(pause)
            await asyncio.to_thread(self._try, True)
        except BaseException:  # cancelled: a thread may still be on its way to a claim
            asyncio.get_running_loop().run_in_executor(None, self._abandon)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.end, kind is None))

    # --- by hand --------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Claim the message, after whoever works on a copy now; whether it is new."""
        try:
            for pause in self._pauses():
                if self._try(False):
                    break
                time.sleep(pause)
            else:
                self._try(True)
        except BaseException:  # of a signal handler
            self._abandon()
            raise
        return self._is_new

    def end(self, is_done: bool) -> None:
        """Record the message as done, or let the next copy be worked on."""
        if self._key is None or not self._is_new or self._is_over:
            return
        self._is_over = True
        if is_done and not self._has_failed and not self._went_back():
            self._window._ask(None, self._store.done, self._key, self._owner)
        else:
            self._window._ask(None, self._store.release, self._key, self._owner)

    def _pauses(self) -> Iterator[float]:
        """Pauses between tries, for as long as a claim of somebody else is respected."""
        patience = Deadline(self._window._lease)
        pause = FIRST_PAUSE
        while (left := patience.remaining()) > 0:
            yield min(pause, left)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _try(self, take_over: bool) -> bool:
        """Try to claim it; False while somebody else works on it."""
        if self._key is None:
            return True
        with self._lock:
            if self._is_over:
                return True
            claim = functools.partial(self._store.claim, take_over=take_over)
            verdict = self._window._ask(
                Verdict.CLAIMED, claim, self._key, self._owner, self._window._lease
            )
        self._is_new = verdict is not Verdict.DONE
        return verdict is not Verdict.BUSY

    def _abandon(self) -> None:
        """Nobody will work on it; the claim, if there is one or one is just being made, ends."""
        with self._lock:
            self.end(False)

    def _went_back(self) -> bool:
        return getattr(self._message, "_state", None) in NOT_DONE


def _key_of(message: Any) -> str | None:
    """Its id as the store keeps it: bounded, whatever a sender gave it."""
    key = message_id(message)
    if key is None or len(key) <= LONGEST_KEY:
        return key
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
