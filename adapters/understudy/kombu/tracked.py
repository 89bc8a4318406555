"""Publishing with trackMessages=true: a send returns at once, its message waits in the outbox.

Rules
* One for each logical broker and process. Callers only put into the outbox, under the lock, and
  never touch a socket: that is the sender's business (see `sender`). They wait with no lock held
  (see `waiters`).
* Order is that of the puts, over failovers too. Nothing leaves the outbox but by a confirm, a
  refusal (told as `MessageFailed`, raised by flush or close) or the poison rule; see
  `core.outbox`.
* What is left when the application closes, or the interpreter ends, is flushed within closeTimeout.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from understudy import errors
from understudy.core.events import MessageFailed
from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.notifier import logger
from understudy.failover.waiters import Waiter
from understudy.kombu import celery
from understudy.kombu.errors import SendTimeout
from understudy.kombu.message import OutMessage, Publication
from understudy.kombu.pending import Pending
from understudy.kombu.sender import Sender

if TYPE_CHECKING:
    from understudy.kombu.logical import LogicalBroker

__all__ = ["TrackedPublisher"]

SLICE = 0.1  # s between two looks of a caller who waits


class _Exit:
    has_begun = False


_exit = _Exit()
_publishers: weakref.WeakSet[TrackedPublisher] = weakref.WeakSet()


def flush_all(**_: object) -> None:
    """Flush what this process still has to send; a receiver of Celery's shutdown signals too.

    One function for all publishers: Celery takes a second receiver for the first one, and a forked
    child has inherited that.
    """
    for publisher in list(_publishers):
        publisher.flush_at_exit()


@atexit.register
def _at_exit() -> None:
    _exit.has_begun = True
    flush_all()


class TrackedPublisher:
    def __init__(self, broker: LogicalBroker) -> None:
        self._broker = broker
        self._pending = Pending(broker.options.max_cache_size)
        self.sender = Sender(broker, self._pending)
        self._left_behind: tuple[int, int] | None = None  # the state at the last flush in vain
        self._pid = os.getpid()
        forking.register(self)
        _publishers.add(self)
        celery.on_shutdown(flush_all)

    def __repr__(self) -> str:
        return f"<TrackedPublisher {self._pending.outbox!r}>"

    def put(self, publication: Publication, deadline: Deadline) -> None:
        """Take the message; wait only while the outbox is full (SendTimeout, ConnectFailed)."""
        message = publication.message
        size, key = message.size, message.message_id
        pending = self._pending
        with pending.lock:
            is_in = pending.outbox.offer(publication, size, key)
            was_asleep = is_in and self.sender.rouse()
        if not is_in:
            if not self._wait(lambda: pending.outbox.offer(publication, size, key), deadline):
                raise self._no_room(message, deadline)
            with pending.lock:
                was_asleep = self.sender.rouse()
        if was_asleep:
            self.sender.wake()
        if _exit.has_begun:
            self.flush_at_exit()  # another atexit handler sends, and ours has run already

    def _no_room(self, message: OutMessage, deadline: Deadline) -> SendTimeout:
        return SendTimeout(
            f"message {message.message_id} was never sent: the outbox stayed full for "
            f"timeout={(deadline.seconds or 0) * 1000:.0f} ms",
            message_id=message.message_id,
            attempts=self._broker.attempts,
        )

    def _wait(self, is_done: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until this, asked with the lock held, is true; False at the deadline.

        Raises ConnectFailed when reconnecting was given up; not for an earlier round of attempts.
        """
        pending = self._pending
        if pending.given_up is not None:
            pending.given_up = None
            self.sender.wake()
        waiter = Waiter()
        pending.waiters.add(waiter)
        try:
            while True:
                with pending.lock:
                    if is_done():
                        return True
                    if pending.given_up is not None:
                        raise pending.given_up
                    if deadline.remaining() <= 0:
                        return False
                    has_thread = self.sender.ensure_thread()
                self._broker.supervisor.hurry()
                limit = min(deadline.remaining(), SLICE)
                if has_thread:
                    waiter.wait(limit)
                else:
                    self.sender.step(Deadline(limit))
        finally:
            pending.waiters.discard(waiter)

    def flush(self, deadline: Deadline) -> bool:
        """Wait until the outbox is empty; False at the deadline. Raises what was refused."""
        pending = self._pending
        self.sender.wake()
        if not self._wait(lambda: pending.outbox.is_empty, deadline):
            return False
        with pending.lock:
            failure = pending.failures[0] if pending.failures else None
            pending.failures.clear()
        if failure is not None:
            raise failure
        return True

    def rest(self) -> None:
        """Leave the broker as soon as the outbox is empty; the next put begins again."""
        self.sender.rest()

    def flush_at_close(self) -> None:
        """Flush within closeTimeout; what is left then is logged and told, never silently gone.

        Raises what was refused. Of several closes that find the same messages left, only the first
        waits for them.
        """
        pending = self._pending
        limit = self._broker.options.close_timeout
        with pending.lock:
            if self._state() == self._left_behind:
                return
        try:
            if self.flush(Deadline(limit / 1000)):
                return
            reason = f"not confirmed within closeTimeout={limit} ms"
        except errors.ConnectFailed as exc:
            reason = str(exc)
        with pending.lock:
            left = pending.outbox.keys()
            self._left_behind = self._state() if left else None
        if left:
            logger.error("%d tracked messages are left: %s: %s", len(left), reason, ", ".join(left))
        for key in left:
            self._broker.supervisor.tell(MessageFailed(reason=reason, message_id=key))

    def _state(self) -> tuple[int, int]:
        outbox = self._pending.outbox
        return outbox.confirmed_total, len(outbox)

    def flush_at_exit(self) -> None:
        """The same where nobody is left to catch anything: interpreter exit, worker shutdown."""
        if self._pid != os.getpid():
            return
        try:
            self.flush_at_close()
        except errors.DeliveryFailed as exc:
            logger.error("a tracked message was refused: %s", exc)

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._pending.lock.acquire()

    def let_go(self) -> None:
        self._pending.lock.release()

    def abandon(self) -> None:
        """In a forked child the messages are the parent's to send."""
        self._pending = Pending(self._broker.options.max_cache_size)
        self.sender.abandon(self._pending)
