"""Sends what is in the outbox of tracked messages, and settles it when the broker answers.

Rules
* A daemon thread with a connection of its own writes what is in the outbox, reads confirms, and
  notices a dead broker while the application is idle. It ends when it has had no connection and no
  message for `IDLE_TIME`; a put starts it.
* The connection is touched only by whoever runs `step`: the thread, or a flushing caller when no
  thread can be started any more (interpreter exit). The lock is never held over socket I/O.
* After a loss everything unconfirmed is written again, in order, before anything newer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

import amqp

from understudy import errors
from understudy.core.events import MessageFailed
from understudy.core.outbox import Entry
from understudy.failover import forking
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import logger
from understudy.failover.polling import Wakeup
from understudy.kombu.errors import ConnectFailed, Unroutable, refused
from understudy.kombu.inner import GOODBYE, Inner
from understudy.kombu.link import LinkBroken
from understudy.kombu.message import Publication
from understudy.kombu.pending import Pending
from understudy.kombu.topology import Declaration
from understudy.kombu.ways import Ways
from understudy.kombu.window import Window, open_window

if TYPE_CHECKING:
    from understudy.kombu.logical import LogicalBroker

__all__ = ["Sender"]

Failed: TypeAlias = "tuple[Entry[Publication], errors.DeliveryFailed]"

IDLE_TIME = 10.0  # s
BATCH = 256  # messages encoded before confirms are looked at again; about 4 ms of work


class Sender:
    def __init__(self, broker: LogicalBroker, pending: Pending) -> None:
        self._broker = broker
        self._pending = pending
        self._thread: threading.Thread | None = None
        self._stepping = threading.Lock()  # held by whoever touches the connection
        self.window: Window | None = None
        self._ways = Ways(broker.topology, broker.supervisor.notifier)
        self._wakeup = Wakeup()
        self._sleeping = False  # the thread waits in poll, or is about to
        self._needed_at = 0.0  # when the thread had something to do last
        self._resting = False  # the application has closed its connections

    # --- called by the application's threads ----------------------------------------------------

    def rouse(self) -> bool:
        """With the lock held, after a put: whether it has to be woken too."""
        if self._thread is not None and not self._sleeping:
            return False
        self._sleeping = self._resting = False
        self.ensure_thread()
        return True

    def wake(self) -> None:
        self._wakeup.set()

    def rest(self) -> None:
        """Leave the broker as soon as the outbox is empty; the next put begins again."""
        with self._pending.lock:
            self._resting = True
        self.wake()

    def ensure_thread(self) -> bool:
        """Have it run, with the lock held; False when it can't be started any more."""
        if self._thread is None:  # it sets it back; is_alive() errs when a signal interrupts it
            self._needed_at = time.monotonic()
            self._wakeup.close()
            self._wakeup = Wakeup()
            self._thread = forking.start_thread("understudy-publisher", self._run)
        return self._thread is not None

    def step(self, deadline: Deadline) -> None:
        """Write what can be written, take in what has come, wait for more."""
        with self._stepping:
            window = self.window
            try:
                if window is None:
                    if not self._sleep_until_needed(deadline):
                        return
                    window = self.window = self._open(deadline)
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

    def abandon(self, pending: Pending) -> None:
        """In a forked child: begin anew, with nothing of the parent's."""
        self._pending = pending
        self._stepping = threading.Lock()
        self._thread = None
        self.window = None
        self._wakeup.close()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._has_ended():
            try:
                self.step(Deadline(None))
            except Exception:
                logger.exception("a bug in understudy: the publisher goes on")
                with contextlib.suppress(Exception):
                    self._lose("internal error")
                time.sleep(1)  # so that a bug that repeats does not burn a CPU

    def _has_ended(self) -> bool:
        with self._pending.lock:
            now = time.monotonic()
            if self.window is not None or not self._pending.outbox.is_empty:
                self._needed_at = now
            if now - self._needed_at < IDLE_TIME:
                return False
            self._thread = None
            self._wakeup.close()
            self._broker.supervisor.detach(self)
            return True

    def _sleep_until_needed(self, deadline: Deadline) -> bool:
        """Without a connection and without messages there is nothing to do."""
        pending = self._pending
        with pending.lock:
            is_empty = pending.outbox.is_empty
            self._sleeping = is_empty or pending.given_up is not None
            if not self._sleeping:
                return True
        idle = Deadline(min(deadline.remaining(), IDLE_TIME)) if is_empty else deadline
        self._wakeup.wait(None, idle)
        with pending.lock:
            self._sleeping = False
            pending.given_up = None
            return not pending.outbox.is_empty

    def _maybe_rest(self, window: Window) -> None:
        if not self._resting:
            return
        supervisor = self._broker.supervisor
        with self._pending.lock:
            self._resting = not supervisor.has_users_besides(self)
            if not self._resting or not self._pending.outbox.is_empty:
                return
            self.window = None
            self._pending.outbox.link_lost()  # tags begin anew on the next one
        supervisor.released(window.inner)
        supervisor.detach(self)
        window.inner.close(GOODBYE)

    def _open(self, deadline: Deadline) -> Window:
        self._broker.supervisor.attach(self)
        inner = self._broker.supervisor.acquire(deadline)
        try:
            window = open_window(inner, self, confirms=self._broker.options.confirms)
        except LinkBroken as exc:
            self._leave(inner, str(exc))
            raise
        inner.note_polled()
        self._ways.forget()
        return window

    def _write(self, window: Window) -> None:
        pending = self._pending
        while True:
            with pending.lock:
                entries = pending.outbox.next_unwritten(BATCH)
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
        with self._pending.lock:
            if self._pending.outbox.next_unwritten(1):
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
        with self._pending.lock:
            self._pending.outbox.written(entry, tag)

    def unsendable(self, entry: Entry[Publication], cause: Exception) -> None:
        """No link could carry it: taken out, as the caller's error."""
        with self._pending.lock:
            self._pending.outbox.drop(entry.key, entry.item)
            failed = self._note([(entry, refused(cause, entry.key))])
        self._tell(failed)

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        """The broker has confirmed or refused."""
        pending = self._pending
        with pending.lock:
            settle = pending.outbox.confirmed if ok else pending.outbox.refused
            entries = settle(tag, multiple)
            failed = self._note([(e, _failure(e, ok)) for e in entries if e.returned or not ok])
        self._tell(failed)

    def returned(self, key: str) -> None:
        with self._pending.lock:
            self._pending.outbox.returned(key)

    def _note(self, failed: list[Failed]) -> list[Failed]:
        """Under the lock under which they leave the outbox: a flush then finds both or neither."""
        self._pending.failures.extend(error for _, error in failed)
        return failed

    def _tell(self, failed: list[Failed]) -> None:
        self._pending.waiters.ring()
        for entry, error in failed:
            endpoint = str(self._broker.supervisor.current or "")
            self._broker.supervisor.tell(MessageFailed(endpoint, str(error), message_id=entry.key))

    # --- losses ---------------------------------------------------------------------------------

    def _lose(self, reason: str, exc: LinkBroken | None = None) -> None:
        """The link broke: everything unconfirmed is written again on the next one."""
        window, self.window = self.window, None
        failed: list[Failed] = []
        with self._pending.lock:
            if exc is not None and exc.by_peer:
                poison = self._pending.outbox.channel_closed()
                if poison is not None:
                    failed = self._note([(poison, refused(exc.__cause__ or exc, poison.key))])
            else:
                self._pending.outbox.link_lost()
        if window is not None and exc is not None and exc.by_peer and window.inner.is_alive():
            self.window = self._reopened(window)
        elif window is not None:
            self._leave(window.inner, reason)
        self._tell(failed)

    def _reopened(self, window: Window) -> Window | None:
        """Another channel on the same connection, after the broker closed only the channel."""
        try:
            return open_window(window.inner, self, confirms=self._broker.options.confirms)
        except LinkBroken as exc:
            self._leave(window.inner, str(exc))
            return None

    def _leave(self, inner: Inner, reason: str) -> None:
        self._broker.supervisor.lost(inner, reason)
        inner.close(0.0)

    def _give_up(self, exc: errors.ConnectFailed) -> None:
        with self._pending.lock:
            self._pending.given_up = ConnectFailed(str(exc).partition("\n")[0], exc.attempts)
        self._pending.waiters.ring()


def _failure(entry: Entry[Publication], ok: bool) -> errors.DeliveryFailed:
    """What a message ended in that was refused, or confirmed and returned."""
    if ok:
        return Unroutable(f"message {entry.key} reached no queue", message_id=entry.key)
    nack = amqp.exceptions.MessageNacked("the broker answered basic.nack")
    return refused(nack, entry.key)
