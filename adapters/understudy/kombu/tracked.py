"""Publishing with trackMessages=true: a send returns at once, its message waits in the outbox.

Rules
* One for each logical broker and process, with a connection and a daemon thread of its own: the
  thread writes what is in the outbox, reads confirms, and notices a dead broker while the
  application is idle. Callers only put into the outbox, under the lock, and never touch a socket.
* Order is that of the puts, over failovers too. Nothing leaves the outbox but by a confirm, a
  refusal (told as `MessageFailed`, raised by flush or close) or the poison rule; see
  `core.outbox`.
* The thread ends when it has had no connection and no message for `IDLE_TIME`; a put starts it.
* The connection is touched only by whoever runs `_step`: the thread, or a flushing caller when no
  thread can be started any more (interpreter exit). The lock is never held over socket I/O.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

import amqp

from understudy import errors
from understudy.core.events import MessageFailed
from understudy.core.outbox import Entry, Outbox
from understudy.failover import forking
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import logger
from understudy.failover.polling import Wakeup
from understudy.kombu import celery
from understudy.kombu.errors import ConnectFailed, SendTimeout, Unroutable, refused
from understudy.kombu.inner import GOODBYE, Inner
from understudy.kombu.link import LinkBroken
from understudy.kombu.message import OutMessage
from understudy.kombu.topology import Declaration
from understudy.kombu.ways import Ways
from understudy.kombu.window import Window, open_window

if TYPE_CHECKING:
    from understudy.kombu.logical import LogicalBroker

__all__ = ["Publication", "TrackedPublisher"]

FAILURES = 1000  # refusals kept for a flush that may never come; each was told as an event
IDLE_TIME = 10.0  # s
BATCH = 256  # messages encoded before confirms are looked at again; about 4 ms of work


class Publication:
    """A message and where it goes."""

    __slots__ = ("exchange", "immediate", "mandatory", "message", "routing_key")

    def __init__(
        self, message: OutMessage, exchange: str, routing_key: str, mandatory: bool, immediate: bool
    ) -> None:
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.immediate = immediate


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
        self._outbox: Outbox[Publication] = Outbox(broker.options.max_cache_size)
        self._lock = threading.RLock()  # a signal handler may flush; entered itself, see supervisor
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._stepping = threading.Lock()  # held by whoever touches the connection
        self._window: Window | None = None
        self._ways = Ways(broker.topology, broker.supervisor.notifier)
        self._wakeup = Wakeup()
        self._sleeping = False  # the thread waits in poll, or is about to
        self._waiting = 0  # callers that wait for something to leave the outbox
        self._failures: deque[errors.UnderstudyError] = deque(maxlen=FAILURES)  # for flush
        self._left_behind: tuple[int, int] | None = None  # the state at the last flush in vain
        self._given_up: errors.ConnectFailed | None = None
        self._needed_at = 0.0  # when the thread had something to do last
        self._resting = False  # the application has closed its connections
        forking.register(self)
        _publishers.add(self)
        celery.on_shutdown(flush_all)

    def __repr__(self) -> str:
        return f"<TrackedPublisher {self._outbox!r}>"

    # --- the application's side -----------------------------------------------------------------

    def put(
        self,
        message: OutMessage,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        immediate: bool,
        deadline: Deadline,
    ) -> None:
        """Take the message; wait only while the outbox is full (SendTimeout, ConnectFailed)."""
        publication = Publication(message, exchange, routing_key, mandatory, immediate)
        size = message.size
        with self._lock:
            if not self._outbox.offer(publication, size, message.message_id):
                self._begin_anew()
                while not self._outbox.offer(publication, size, message.message_id):
                    self._wait_for_room(message, deadline)
            is_asleep = self._sleeping or self._thread is None
            if is_asleep:
                self._sleeping = self._resting = False
                self._ensure_thread()
        if is_asleep:
            self._wakeup.set()
        if _exit.has_begun:
            self.flush_at_exit()  # another atexit handler sends, and ours has run already

    def _begin_anew(self) -> None:
        """A new caller does not get the error of an earlier round of attempts."""
        if self._given_up is not None:
            self._given_up = None
            self._wakeup.set()

    def _wait_for_room(self, message: OutMessage, deadline: Deadline) -> None:
        if self._given_up is not None:
            raise self._given_up
        if deadline.remaining() <= 0:
            raise SendTimeout(
                f"message {message.message_id} was never sent: the outbox stayed full for "
                f"timeout={(deadline.seconds or 0) * 1000:.0f} ms",
                message_id=message.message_id,
                attempts=self._broker.attempts,
            )
        self._wait(deadline)

    def _wait(self, deadline: Deadline) -> None:
        """Wait (with the lock held) until something has left the outbox, at most 100 ms."""
        self._broker.supervisor.hurry()
        if self._ensure_thread():
            self._waiting += 1
            try:
                self._changed.wait(min(deadline.remaining(), 0.1))
            finally:
                self._waiting -= 1
            return
        self._changed.release()
        try:
            self._step(Deadline(min(deadline.remaining(), 0.1)))
        finally:
            self._changed.acquire()

    def flush(self, deadline: Deadline) -> bool:
        """Wait until the outbox is empty; False at the deadline. Raises what was refused."""
        self._wakeup.set()
        with self._lock:
            self._begin_anew()
            while not self._outbox.is_empty:
                if self._given_up is not None:
                    raise self._given_up
                if deadline.remaining() <= 0:
                    return False
                self._wait(deadline)
            failure = self._failures[0] if self._failures else None
            self._failures.clear()
        if failure is not None:
            raise failure
        return True

    def rest(self) -> None:
        """Leave the broker as soon as the outbox is empty; the next put begins again."""
        with self._lock:
            self._resting = True
        self._wakeup.set()

    def flush_at_close(self) -> None:
        """Flush within closeTimeout; what is left then is logged and told, never silently gone.

        Raises what was refused. Of several closes that find the same messages left, only the first
        waits for them.
        """
        limit = self._broker.options.close_timeout
        with self._lock:
            if self._state() == self._left_behind:
                return
        try:
            if self.flush(Deadline(limit / 1000)):
                return
            reason = f"not confirmed within closeTimeout={limit} ms"
        except errors.ConnectFailed as exc:
            reason = str(exc)
        with self._lock:
            left = self._outbox.keys()
            self._left_behind = self._state() if left else None
        if left:
            logger.error("%d tracked messages are left: %s: %s", len(left), reason, ", ".join(left))
        for key in left:
            self._broker.supervisor.tell(MessageFailed(reason=reason, message_id=key))

    def _state(self) -> tuple[int, int]:
        return self._outbox.confirmed_total, len(self._outbox)

    def flush_at_exit(self) -> None:
        """The same where nobody is left to catch anything: interpreter exit, worker shutdown."""
        if self._pid != os.getpid():
            return
        try:
            self.flush_at_close()
        except errors.DeliveryFailed as exc:
            logger.error("a tracked message was refused: %s", exc)

    # --- the thread -----------------------------------------------------------------------------

    _pid = -1

    def _ensure_thread(self) -> bool:
        if self._thread is None:  # it sets it back; is_alive() errs when a signal interrupts it
            self._pid = os.getpid()
            self._needed_at = time.monotonic()
            self._wakeup.close()
            self._wakeup = Wakeup()
            self._thread = forking.start_thread("understudy-publisher", self._run)
        return self._thread is not None

    def _run(self) -> None:
        while not self._has_ended():
            try:
                self._step(Deadline(None))
            except Exception:
                logger.exception("a bug in understudy: the publisher goes on")
                with contextlib.suppress(Exception):
                    self._lose("internal error")
                time.sleep(1)  # so that a bug that repeats does not burn a CPU

    def _has_ended(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._window is not None or not self._outbox.is_empty:
                self._needed_at = now
            if now - self._needed_at < IDLE_TIME:
                return False
            self._thread = None
            self._wakeup.close()
            self._broker.supervisor.detach(self)
            return True

    def _step(self, deadline: Deadline) -> None:
        """Write what can be written, take in what has come, wait for more."""
        with self._stepping:
            window = self._window
            try:
                if window is None:
                    if not self._sleep_until_needed(deadline):
                        return
                    window = self._window = self._open(deadline)
                self._write(window)
                self._sleep_on(window, deadline)
                window.take_in()
                self._maybe_rest(window)
            except DeadlinePassed:
                return
            except errors.ConnectFailed as exc:
                self._give_up(exc)
            except LinkBroken as exc:
                self._lose(str(exc), exc)

    def _sleep_until_needed(self, deadline: Deadline) -> bool:
        """Without a connection and without messages there is nothing to do."""
        with self._lock:
            is_empty = self._outbox.is_empty
            self._sleeping = is_empty or self._given_up is not None
            if not self._sleeping:
                return True
        idle = Deadline(min(deadline.remaining(), IDLE_TIME)) if is_empty else deadline
        self._wakeup.wait(None, idle)
        with self._lock:
            self._sleeping = False
            self._given_up = None
            return not self._outbox.is_empty

    def _maybe_rest(self, window: Window) -> None:
        if not self._resting:
            return
        supervisor = self._broker.supervisor
        with self._lock:
            self._resting = not supervisor.has_users_besides(self)
            if not self._resting or not self._outbox.is_empty:
                return
            self._window = None
        supervisor.released(window.inner)
        supervisor.detach(self)
        window.inner.close(GOODBYE)

    def _open(self, deadline: Deadline) -> Window:
        self._broker.supervisor.attach(self)
        inner = self._broker.supervisor.acquire(deadline)
        try:
            window = open_window(inner, self, self._broker)
        except LinkBroken as exc:
            self._leave(inner, str(exc))
            raise
        inner.note_polled()
        self._ways.forget()
        return window

    def _write(self, window: Window) -> None:
        while True:
            with self._lock:
                entries = self._outbox.next_unwritten(BATCH)
            if not entries:
                return
            for entry in entries:
                publication = entry.item
                self._prepare_way(window, publication)
                if entry.attempts:
                    publication.message.mark_resend()
                window.write(entry)
            window.send()
            if len(entries) == BATCH:
                window.take_in()

    def _sleep_on(self, window: Window, deadline: Deadline) -> None:
        with self._lock:
            if self._outbox.next_unwritten(1):
                return
            self._sleeping = True
        if window.has_unread():
            self._sleeping = False
            return
        self._wakeup.wait(window.socket(), deadline)
        self._sleeping = False

    def _prepare_way(self, window: Window, publication: Publication) -> None:
        def declare(call: Declaration) -> None:
            window.send()
            window.declare(call)

        epoch = self._broker.supervisor.epoch_of(window.inner)
        self._ways.prepare(publication.exchange, publication.routing_key, epoch, declare)

    # --- called by the window -------------------------------------------------------------------

    def written(self, entry: Entry[Publication], tag: int) -> None:
        with self._lock:
            self._outbox.written(entry, tag)

    def unsendable(self, entry: Entry[Publication], cause: Exception) -> None:
        """No link could carry it: taken out, as the caller's error."""
        with self._lock:
            self._outbox.drop(entry.key, entry.item)
        self._failed(entry, refused(cause, entry.key))

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        """The broker has confirmed or refused."""
        with self._lock:
            settle = self._outbox.confirmed if ok else self._outbox.refused
            entries = settle(tag, multiple)
            if self._waiting:
                self._changed.notify_all()
        for entry in entries:
            if not ok:
                nack = amqp.exceptions.MessageNacked("the broker answered basic.nack")
                self._failed(entry, refused(nack, entry.key))
            elif entry.returned:
                text = f"message {entry.key} reached no queue"
                self._failed(entry, Unroutable(text, message_id=entry.key))

    def returned(self, key: str) -> None:
        with self._lock:
            self._outbox.returned(key)

    def _failed(self, entry: Entry[Publication], error: errors.UnderstudyError) -> None:
        with self._lock:
            self._failures.append(error)
            self._changed.notify_all()
        endpoint = str(self._broker.supervisor.current or "")
        self._broker.supervisor.tell(MessageFailed(endpoint, str(error), message_id=entry.key))

    # --- losses ---------------------------------------------------------------------------------

    def _lose(self, reason: str, exc: LinkBroken | None = None) -> None:
        """The link broke: everything unconfirmed is written again on the next one."""
        window, self._window = self._window, None
        cause = None if exc is None else exc.__cause__
        only_channel = window is not None and window.inner.is_alive() and exc is not None
        poison = None
        with self._lock:
            if exc is not None and exc.by_peer:
                poison = self._outbox.channel_closed()
            else:
                self._outbox.link_lost()
        if window is not None and not (only_channel and exc is not None and exc.by_peer):
            self._leave(window.inner, reason)
        elif window is not None:
            self._window = self._reopened(window)
        if poison is not None:
            self._failed(poison, refused(cause or Exception(reason), poison.key))

    def _reopened(self, window: Window) -> Window | None:
        """Another channel on the same connection, after the broker closed only the channel."""
        try:
            return open_window(window.inner, self, self._broker)
        except LinkBroken as exc:
            self._leave(window.inner, str(exc))
            return None

    def _leave(self, inner: Inner, reason: str) -> None:
        self._broker.supervisor.lost(inner, reason)
        inner.close(0.0)

    def _give_up(self, exc: errors.ConnectFailed) -> None:
        with self._lock:
            self._given_up = ConnectFailed(str(exc).partition("\n")[0], exc.attempts)
            self._changed.notify_all()

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._changed.acquire()

    def let_go(self) -> None:
        self._changed.release()

    def abandon(self) -> None:
        """In a forked child the messages are the parent's to send."""
        self._outbox = Outbox(self._broker.options.max_cache_size)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._stepping = threading.Lock()
        self._thread = None
        self._window = None
        self._wakeup.close()
