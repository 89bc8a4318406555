"""Sends messages: every one goes through the outbox, confirmed one by one or tracked.

Rules
* A message leaves the outbox when its receipt has come, when it was refused, or when its caller's
  time is up; see `core.outbox`. What was on its way when a link broke is sent again, marked.
* Without trackMessages the caller waits for his own receipt; with it he waits only for room.
* Where receipts are cumulative (ActiveMQ) a batch asks for one, with its last message.
* Who waits is told before the outbox forgets his message: a signal handler may raise in between,
  and then the message is sent again, marked, where the other way round he would wait for ever.
* The lock is the session's. Writing under it never waits, see `wire`.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

from understudy import errors
from understudy.core.events import MessageFailed
from understudy.core.outbox import Entry, Outbox
from understudy.failover.deadline import Deadline
from understudy.failover.notifier import logger
from understudy.failover.waiters import Waiter, Waiters
from understudy.stomp.errors import ConnectionLost, Refused, SendTimeout
from understudy.stomp.inner import Inner
from understudy.stomp.message import OutMessage
from understudy.stomp.turns import SLICE
from understudy.stomp.wire import INTERRUPTED, WireBroken

if TYPE_CHECKING:
    from understudy.stomp.session import Session

__all__ = ["Sender"]

BATCH = 64  # messages for one call to the network, and on ActiveMQ for one receipt
MOST_WAITING = 1 << 20  # bytes that may wait for the kernel; more stay in the outbox
SILENT_CLOSES = 4  # a broker that dies this often with one message on its way is improbable
FAILURES = 1000  # refusals kept for a flush that may never come; each was told as an event
RECEIPT = "u"  # receipts of messages: u1, u2, …; c1, c2, … are those of commands


class Sender:
    def __init__(
        self, session: Session, lock: threading.RLock, outbox: Outbox[OutMessage] | None
    ) -> None:
        options = session.options
        self.is_tracking = options.track_messages
        self.confirms = options.confirms
        self._limit = options.max_cache_size if self.is_tracking else sys.maxsize
        self.outbox: Outbox[OutMessage] = Outbox(self._limit) if outbox is None else outbox
        self._session = session
        self._lock = lock
        self._tag = 0
        self._room = Waiters()  # who waits for something to leave the outbox
        self._failures: deque[errors.UnderstudyError] = deque(maxlen=FAILURES)
        self._given_up: errors.UnderstudyError | None = None
        self._silent: tuple[str, int] = ("", 0)  # message, how often the link ended over it

    def __repr__(self) -> str:
        return f"<Sender {self.outbox!r}>"

    # --- the callers' side ----------------------------------------------------------------------

    def send(self, message: OutMessage, deadline: Deadline) -> None:
        """Return when it is confirmed, or tracked; SendTimeout, Refused, ConnectFailed."""
        if not message.is_tracked:
            self._session.check_reentry()
        try:
            with self._lock:
                self._given_up = None
                is_in = self.outbox.offer(message, message.size, message.key)
                if is_in:
                    self._session.something_to_send()
                link = None if message.is_tracked else self._session.reader.takes_turn(message)
            if not is_in:
                self._wait_for_room(message, deadline)
            if not message.is_tracked:
                self._wait(message, link, deadline)
        except BaseException:  # what has raised is not sent later
            with self._lock:
                self.outbox.drop(message.key, message)
            raise

    def _wait(self, message: OutMessage, link: Inner | None, deadline: Deadline) -> None:
        """``link`` is what the caller reads himself."""
        if link is not None:
            self._session.reader.read_for(message, link, deadline)
        if not message.is_settled:
            self._wait_for_bell(message, deadline)
        if not message.is_settled:
            with self._lock:
                dropped = self.outbox.drop(message.key, message)
            if dropped is not None:
                raise self._timed_out(message, dropped.is_in_doubt, deadline)
        if message.error is not None:
            raise message.error

    def _wait_for_bell(self, message: OutMessage, deadline: Deadline) -> None:
        bell = message.bell = Waiter()
        while not message.is_settled and (left := deadline.remaining()) > 0:
            bell.wait(min(left, SLICE))
            if not message.is_settled:
                self._session.hurry()

    def _timed_out(
        self, message: OutMessage, written: bool, deadline: Deadline
    ) -> errors.SendTimeout:
        state = "in doubt: it may have reached a broker" if written else "never sent"
        return SendTimeout(
            f"message {message.key} was not confirmed within "
            f"timeout={(deadline.seconds or 0) * 1000:.0f} ms ({state})",
            message_id=message.key,
            written=written,
            attempts=self._session.supervisor.attempts,
        )

    def _wait_for_room(self, message: OutMessage, deadline: Deadline) -> None:
        self._session.check_reentry()
        waiter = Waiter()
        try:
            while True:
                with self._lock:
                    self._room.add(waiter)
                    self._session.raise_if_closed()
                    if self.outbox.offer(message, message.size, message.key):
                        self._session.something_to_send()
                        return
                    if self._given_up is not None:
                        raise self._given_up
                left = deadline.remaining()
                if left <= 0:
                    raise SendTimeout(
                        f"message {message.key} was never sent: the outbox stayed full for "
                        f"timeout={(deadline.seconds or 0) * 1000:.0f} ms",
                        message_id=message.key,
                        attempts=self._session.supervisor.attempts,
                    )
                waiter.wait(min(left, SLICE))
                self._session.hurry()
        finally:
            self._room.discard(waiter)

    def flush(self, deadline: Deadline) -> bool:
        """Wait until the outbox is empty; False at the deadline. Raises what was refused."""
        self._session.check_reentry()
        waiter = Waiter()
        try:
            with self._lock:
                self._given_up = None
                self._session.something_to_send()
            while True:
                with self._lock:
                    self._room.add(waiter)
                    if self.outbox.is_empty:
                        failure = self._failures[0] if self._failures else None
                        self._failures.clear()
                        break
                    if self._given_up is not None:
                        raise self._given_up
                left = deadline.remaining()
                if left <= 0:
                    return False
                waiter.wait(min(left, SLICE))
                self._session.hurry()
        finally:
            self._room.discard(waiter)
        if failure is not None:
            raise failure
        return True

    # --- the link's side; the lock is held ------------------------------------------------------

    def pump(self, link: Inner) -> None:
        """Write what may be written now; a broken link is found by its reader."""
        while link.wire.waiting_bytes < MOST_WAITING and (
            entries := self.outbox.next_unwritten(BATCH)
        ):
            try:
                self._write(entries, link)
                if not self.confirms:
                    self._confirmed(self._tag, multiple=True)
            except WireBroken:
                return
            except BaseException:  # of a signal handler; a later receipt would cover what is unsent
                link.sever(INTERRUPTED)
                raise

    def _write(self, entries: list[Entry[OutMessage]], link: Inner) -> None:
        dialect = link.dialect
        last = entries[-1]
        pieces = []
        for entry in entries:
            message = entry.item
            message.resend = entry.attempts > 0
            self._tag += 1
            self.outbox.written(entry, self._tag)
            asks = self.confirms and (entry is last or not dialect.receipts_are_cumulative)
            pieces.append(message.frame(dialect, f"{RECEIPT}{self._tag}" if asks else None))
        link.send(*pieces)

    def _confirmed(self, tag: int, multiple: bool) -> list[OutMessage]:
        messages = [entry.item for entry in self.outbox.covered(tag, multiple)]
        for message in messages:
            message.settle()
        self.outbox.confirmed(tag, multiple)
        self._room.ring()
        return messages

    def receipt(self, tag: int, link: Inner) -> list[OutMessage]:
        """The broker has it, and where receipts are cumulative, all before it."""
        return self._confirmed(tag, link.dialect.receipts_are_cumulative)

    def refused(self, tag: int, text: str) -> str | None:
        """The broker's ERROR names this message; the receipt that its sender asked for."""
        receipt = None
        for entry in self.outbox.covered(tag):
            receipt = entry.item.receipt
            self._fail(entry, f"message {entry.key} was refused: {text}")
        self.outbox.refused(tag)
        self._room.ring()
        return receipt

    def _fail(self, entry: Entry[OutMessage], text: str) -> None:
        error = Refused(text, message_id=entry.key)
        entry.item.settle(error)
        if entry.item.is_tracked:
            self._failures.append(error)
            endpoint = str(self._session.supervisor.current or "")
            self._session.supervisor.tell(MessageFailed(endpoint, text, message_id=entry.key))
        self._room.ring()

    def link_lost(self) -> None:
        """No message's fault."""
        self.outbox.link_lost()
        self._tag = 0

    def closed_silently(self, alone: bool) -> None:
        """The broker closed in good order and without a word, where that may be a refusal.

        It may as well be the broker's end. So it takes many in a row, with the same message as the
        oldest one on its way, before the poison rule of the outbox begins.
        """
        if not self.outbox.in_flight:
            self.link_lost()
            return
        key = self.outbox.keys()[0]
        times = self._silent[1] + 1 if key == self._silent[0] else 1
        self._silent = key, times
        if times < SILENT_CLOSES and not self.outbox.is_probing:
            self.link_lost()
        else:
            self.closed_over_message(
                "the broker closed the connection without a word each time it was sent", alone
            )

    def closed_over_message(self, text: str, alone: bool) -> None:
        """The broker answered with an ERROR that may be about a message, and says not which.

        ``alone``: nothing but messages waited for an answer.
        """
        poison = self.outbox.channel_closed(alone=alone)
        self._tag = 0
        if poison is not None:
            self._fail(poison, f"message {poison.key} was refused: {text}")

    def gave_up(self, error: errors.UnderstudyError) -> None:
        """Whoever waits gets this error; tracked messages stay for a later connection."""
        self._given_up = error
        self.end_waiting(error)

    def end_waiting(self, error: Exception) -> None:
        waiting = [] if self.is_tracking else self.outbox.keys()
        for key in waiting:
            entry = self.outbox.drop(key)
            if entry is not None:
                entry.item.settle(error)
        self._room.ring()

    def abandon(self) -> None:
        """In a forked child the messages are the parent's to send."""
        self.end_waiting(ConnectionLost("the process was forked while this call waited"))
        self.outbox = Outbox(self._limit)
        self._lock = self._session.lock  # which is another one by now

    def tell_left_behind(self, reason: str) -> None:
        """What is tracked and not confirmed, at the end."""
        with self._lock:
            left = self.outbox.keys()
        if left:
            logger.error("%d tracked messages are left: %s: %s", len(left), reason, ", ".join(left))
        for key in left:
            self._session.supervisor.tell(MessageFailed(reason=reason, message_id=key))
