"""Publishing with trackMessages=true: a send returns at once, its message waits in the outbox.

Rules
* One for each connection, with a channel of its own, so that a refused message closes no channel of
  the application's. Only a request to a direct reply-to (which RabbitMQ ties to its channel) and
  what is sent in a transaction do not come here. It is restored like theirs where messages wait, so
  that no message is refused for a channel that a broker does not open.
* The caller writes, and reads confirms only when the outbox is full: that is what makes it fast. A
  daemon thread looks every `TICK` whether the callers have left messages alone, and then takes in
  confirms, brings the connection back and writes; it ends when there is nothing to look after.
* Order is that of the puts, over failovers too. Nothing leaves the outbox but by a confirm, a
  refusal (told as `MessageFailed`, raised by flush or close) or the poison rule; see `core.outbox`.
* Everything runs under the session's lock.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pika import exceptions, spec

from understudy import errors
from understudy.core.events import MessageFailed
from understudy.core.outbox import Entry, Outbox
from understudy.failover import forking
from understudy.failover.deadline import NEVER, Deadline, DeadlinePassed
from understudy.failover.notifier import logger
from understudy.pika.errors import ReentrancyError, SendTimeout, refused
from understudy.pika.link import Link
from understudy.pika.link_channel import LinkChannel, LinkLost
from understudy.pika.message import OutMessage, id_of
from understudy.pika.refusals import Refusals, nacked, unroutable
from understudy.pika.restoring import REPLIES
from understudy.pika.session import Session
from understudy.pika.wire import Wire

if TYPE_CHECKING:
    from understudy.pika.publishing import Publishing

__all__ = ["TrackedPublisher"]

TICK = 0.01  # s
LINGER = 1.0  # s that the thread stays when there is nothing to do; starting one costs 0.1 ms
RETURNABLE = 10_000  # mandatory messages that may still come back where no confirm ends that
REFUSED = (  # what says that nothing can be sent now
    errors.ConnectFailed,
    exceptions.ChannelClosedByBroker,
    exceptions.ConnectionClosedByBroker,
)
WITHIN = (
    "this signal handler has interrupted the call that writes, and would wait for it: only leave a "
    "note in the handler, and send or flush after that call"
)
BATCH = 256  # messages written in one call; about 4 ms of work

_publishers: weakref.WeakSet[TrackedPublisher] = weakref.WeakSet()


class _Exit:
    has_begun = False


@atexit.register
def _at_exit() -> None:
    _Exit.has_begun = True
    for publisher in list(_publishers):
        publisher.flush_at_exit()


class TrackedPublisher:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._outbox: Outbox[OutMessage] = Outbox(session.options.max_cache_size)
        self._link: LinkChannel | None = None
        self._puts = 0
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._tick = threading.Condition(session.lock)
        self._is_lingering = False
        self._is_writing = False
        self._mandatory: dict[str, Publishing] = {}  # whose callbacks hear of a message's return
        self._refusals = Refusals(session.supervisor)
        self._given_up: Exception | None = None
        session.on_lost.append(self._link_lost)
        session.own_channels = lambda: [] if self._outbox.is_empty else [self]
        _publishers.add(self)

    def __repr__(self) -> str:
        return f"<TrackedPublisher {self._outbox!r}>"

    # --- the application's side -----------------------------------------------------------------

    def put(self, message: OutMessage, channel: Publishing, deadline: Deadline) -> None:
        """Take the message; wait only while the outbox is full (SendTimeout, ConnectFailed)."""
        self._session.check_open()
        size = message.size
        self._given_up = None  # a new caller does not get the error of an earlier one
        while not self._outbox.offer(message, size, message.message_id):
            self._wait_for_room(message, size, deadline)
        if message.mandatory:
            self._note_mandatory(message.message_id, channel)
        self._puts += 1
        self._write()
        if self._thread is None:
            self._thread = forking.start_thread("understudy-publisher", self._run)
        elif self._is_lingering:
            self._is_lingering = False
            self._tick.notify_all()
        if _Exit.has_begun:
            self.flush_at_exit()  # another atexit handler sends, and ours has run already

    def _note_mandatory(self, key: str, channel: Publishing) -> None:
        self._mandatory[key] = channel
        if not self._session.options.confirms and len(self._mandatory) > RETURNABLE:
            del self._mandatory[next(iter(self._mandatory))]

    def _wait_for_room(self, message: OutMessage, size: int, deadline: Deadline) -> None:
        outbox, limit = self._outbox, self._session.options.max_cache_size

        def has_room() -> bool:
            return outbox.bytes + size <= limit or outbox.is_empty or self._has_work()

        try:
            self._serve(has_room, deadline)
        except DeadlinePassed:
            raise SendTimeout(
                f"message {message.message_id} was never sent: the outbox stayed full for "
                f"timeout={(deadline.seconds or 0) * 1000:.0f} ms",
                message_id=message.message_id,
                attempts=self._session.supervisor.attempts,
            ) from None

    def _serve(self, is_over: Any, deadline: Deadline) -> None:
        """Have the connection usable, write, and wait; a lost link only means to come again."""
        session = self._session
        if self._is_writing:
            raise ReentrancyError(WITHIN)
        try:
            wire = session.usable(deadline)
            self._write()
            if not session.wait(wire, is_over, deadline.moment):
                raise DeadlinePassed
        except LinkLost:
            return

    def flush(self, deadline: Deadline) -> bool:
        """Wait until the outbox is empty; False at the deadline. Raises what was refused."""
        outbox = self._outbox
        with self._session.lock:
            self._given_up = None
            if not outbox.is_empty:
                self._session.check_open()
            while not outbox.is_empty:
                try:
                    self._serve(lambda: outbox.is_empty or self._has_work(), deadline)
                except DeadlinePassed:
                    return False
            self._refusals.raise_first()
        return True

    def flush_at_close(self) -> None:
        """Flush within closeTimeout; what is left then is logged and told, never silently gone.

        Raises what was refused.
        """
        limit = self._session.options.close_timeout
        try:
            if self.flush(Deadline(limit / 1000)):
                return
            reason = f"not confirmed within closeTimeout={limit} ms"
        except REFUSED as exc:
            if isinstance(exc, errors.DeliveryFailed):
                raise
            reason = str(exc)
        left = self._outbox.keys()
        if left:
            logger.error("%d tracked messages are left: %s: %s", len(left), reason, ", ".join(left))
        for key in left:
            self._session.supervisor.tell(MessageFailed(reason=reason, message_id=key))

    def flush_at_exit(self) -> None:
        """The same where nobody is left to catch anything."""
        if self._pid != os.getpid() or self._session.is_closed:
            return
        try:
            self.flush_at_close()
        except errors.UnderstudyError as exc:
            logger.error("a tracked message failed: %s", exc)

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        session = self._session
        with session.lock:
            while not session.is_closed:
                if self._outbox.is_empty or self._given_up is not None:
                    self._is_lingering = True
                    self._tick.wait(LINGER)
                    if self._is_lingering:
                        break
                    continue
                puts = self._puts
                self._tick.wait(TICK)
                if self._puts == puts and not self._outbox.is_empty and not session.is_closed:
                    self._look_after()
            self._is_lingering = False
            self._thread = None

    def _look_after(self) -> None:
        session = self._session
        try:
            wire = session.usable(NEVER)
            self._write()
            wire.serve()
            self._write()
            session.notify()
        except Exception as exc:
            if session.is_closed or isinstance(exc, LinkLost):
                return
            if not isinstance(exc, exceptions.AMQPError):
                logger.exception("a bug in understudy: the publisher goes on")
            session.end(self)
            self._given_up = exc  # the next put or flush begins anew

    # --- the link -------------------------------------------------------------------------------

    def _has_work(self) -> bool:
        """Whether something could be written now."""
        return self._session.may_go(self) and bool(self._outbox.next_unwritten(1))

    def _maybe_end_turn(self) -> None:
        """Others may write if they waited for what was outstanding here; see `core.suspects`."""
        if not self._outbox.in_flight and not self._outbox.is_probing:
            self._session.end(self)

    def _write(self) -> None:
        """Write what may be written, if there is a wire to write to."""
        session = self._session
        wire = session.wire
        if wire is None or not session.is_live or not session.may_go(self):
            return
        if self._is_writing:
            return  # in a signal handler: the call that it has interrupted goes on with it
        self._is_writing = True
        try:
            self._write_all(wire)
        except BaseException:
            wire.interrupted()
            raise
        finally:
            self._is_writing = False

    def _write_all(self, wire: Wire) -> None:
        outbox = self._outbox
        while wire.lost is None:
            entries = outbox.next_unwritten(BATCH)
            if not entries:
                return
            link = self._link or self._open(wire)
            self._session.suspects.began(self, is_outbox=True)
            wire.write(b"".join(self._noted(entries, link, wire)))
            if not self._session.options.confirms:
                outbox.confirmed(0, multiple=True)
                self._maybe_end_turn()

    def _noted(
        self, entries: list[Entry[OutMessage]], link: LinkChannel, wire: Wire
    ) -> Iterator[bytes]:
        """What to write for these; stops at one that no link could carry."""
        for entry in entries:
            message = entry.item
            if message.header_size > wire.frame_max:
                self._unsendable(entry, wire)
                break
            if entry.attempts:
                message.mark_resend()
            self._outbox.written(entry, link.next_tag)
            link.next_tag += 1
            yield message.frames(link.number, wire.frame_max)

    def _open(self, wire: Wire) -> LinkChannel:
        """On a wire that was restored when there was nothing to send."""
        link = self.restore_on(wire)
        for method in self.requests():
            link.ask(method, REPLIES[type(method)])
        self._link = link
        return link

    def restore_on(self, link: Link) -> LinkChannel:
        fresh = link.open_channel(link.free_number(self._session.channels), self)
        fresh.keeps_more = lambda: self._outbox.is_awaiting
        return fresh

    def requests(self) -> Iterator[Any]:
        if self._session.options.confirms:
            yield spec.Confirm.Select()

    def restored(self, channel: LinkChannel) -> None:
        self._link = channel

    def _unsendable(self, entry: Entry[OutMessage], wire: Wire) -> None:
        """No link could carry it: taken out, as the caller's error."""
        self._outbox.drop(entry.key, entry.item)
        self._maybe_end_turn()
        size = entry.item.header_size
        text = f"its properties take {size} bytes, above {wire.frame_max}"
        self._failed(entry, refused(ValueError(text), entry.key))

    def _link_lost(self, lost: LinkLost) -> None:
        link, self._link = self._link, None
        if lost.is_verdict and link is not None:
            poison = self._outbox.channel_closed(alone=link.is_alone())
            self._convict(poison, lost.cause or lost)
        else:
            self._outbox.link_lost()

    def _convict(self, poison: Entry[OutMessage] | None, cause: Exception) -> None:
        if poison is not None:
            self._failed(poison, refused(cause, poison.key))
        self._maybe_end_turn()

    def _failed(self, entry: Entry[OutMessage], error: errors.DeliveryFailed) -> None:
        self._mandatory.pop(entry.key, None)
        self._refusals.add(error)

    # --- what comes in --------------------------------------------------------------------------

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        settle = self._outbox.confirmed if ok else self._outbox.refused
        for entry in settle(tag, multiple):
            if self._mandatory:
                self._mandatory.pop(entry.key, None)
            if not ok:
                self._failed(entry, nacked(entry.key))
            elif entry.returned:
                self._failed(entry, unroutable(entry.key))
        self._maybe_end_turn()

    def returned(self, method: Any, properties: Any, body: bytes) -> None:
        key = id_of(properties)
        if key is None:
            return
        self._outbox.returned(key)
        channel = self._mandatory.get(key)
        if channel is not None:
            channel._tell_returned(method, properties, body)

    def closed(self, reason: Exception) -> None:
        self._link = None
        self._convict(self._outbox.channel_closed(), reason)

    def delivered(self, method: Any, properties: Any, body: bytes) -> None:
        """Nothing is consumed here."""

    def cancelled(self, method_frame: Any) -> None:
        """Nothing is consumed here."""
