"""The thread of a session: takes a connection, restores, reads until the end, takes the next.

Rules
* Restored are, in this order: subscriptions, each answered before the next; open transactions;
  unconfirmed messages in their order. Only then others may write (`Session.link`).
* A subscription that one broker refuses makes that endpoint fail; one that all refuse, or that was
  never granted, is given up and told.
* Frames of an earlier connection are read by nobody, so no late answer is taken for another's.
* A caller who waits for the only receipt reads in the thread's place; see `turns`. What goes wrong
  then he leaves to the thread (`Inner.failure`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from understudy import errors
from understudy.failover.deadline import NEVER, Deadline, DeadlinePassed
from understudy.failover.monitor import monitor
from understudy.failover.notifier import logger
from understudy.stomp.dispatcher import Job
from understudy.stomp.errors import ConnectFailed, ConnectionLost
from understudy.stomp.incoming import Incoming, OverMessage
from understudy.stomp.inner import Inner
from understudy.stomp.subscriptions import Subscription, Transaction
from understudy.stomp.turns import PARKED, SLICE, Turns
from understudy.stomp.wire import INTERRUPTED, WireBroken
from understudy.wire.stomp import ProtocolError, encode

if TYPE_CHECKING:
    from understudy.stomp.message import OutMessage
    from understudy.stomp.session import Session

__all__ = ["Reader"]

HELD_LIMIT = 256 << 20  # bytes that may come before an answer while the listeners are busy


class Reader:
    def __init__(self, session: Session, incoming: Incoming) -> None:
        self.inner: Inner | None = None  # what is read now
        self.is_asleep = False  # waits for the network, or is about to
        self._session = session
        self._incoming = incoming
        self._was_connected = False
        self._turns = Turns()
        self._expects_replies = False  # what a reply-to brings comes without a subscription

    def run(self) -> None:
        session = self._session
        try:
            while not session.is_over:
                try:
                    inner = session.supervisor.acquire(NEVER, session.check_open)
                except errors.ConnectFailed as exc:
                    session.gave_up(self._hopeless(exc))
                except ConnectionLost:
                    break
                else:
                    self._serve(inner)
        except Exception:
            logger.exception("a bug in understudy: the reading thread ends")
        finally:
            session.ended()

    def _hopeless(self, exc: errors.ConnectFailed) -> ConnectFailed | ConnectionLost:
        if self._was_connected and not self._session.options.reconnect:
            return ConnectionLost(str(exc))
        return ConnectFailed(str(exc).partition("\n")[0], exc.attempts)

    def _serve(self, inner: Inner) -> None:
        cause: Exception | None = None
        reason = "closed"
        try:
            inner.take_over()
            self._was_connected = True
            self.inner = inner
            self._restore(inner)
            while not self._session.is_closed:
                self._step(inner)
        except OverMessage as exc:
            cause, reason = exc, str(exc)
        except (WireBroken, ProtocolError) as exc:
            cause, reason = exc, inner.dead or str(exc)
        except DeadlinePassed:
            limit = self._session.options.connect_timeout
            reason = f"the subscriptions were not restored within connectTimeout={limit} ms"
        except Exception as exc:
            logger.exception("a bug in understudy: the connection is left")
            reason = f"{type(exc).__name__}: {exc}"
        self._lost(inner, reason, cause)

    def _step(self, inner: Inner) -> None:
        """Write what may be written, wait, take in what has come."""
        session = self._session
        with session.lock:
            session.sender.pump(inner)
            is_full = session.dispatcher.is_full
            reading = not is_full or session.awaits_answers
            inner.is_paused = not reading
            is_parked = self._parks(inner)
            self.is_asleep = True
        if inner.failure is not None:
            raise inner.failure
        if is_parked:
            inner.wire.wait(Deadline(PARKED), reading=False)
        else:
            inner.wire.wait(NEVER, reading=reading)
        self.is_asleep = False
        if reading and not is_parked:
            self._read(inner)

    def _read(self, inner: Inner) -> None:
        """Take in what has come, for the thread and for a caller."""
        with inner.reading:
            if inner.is_torn:
                raise inner.failure or WireBroken(INTERRUPTED)
            inner.is_torn = True
            is_full = self._session.dispatcher.is_full
            try:
                frames = inner.read()
                self._incoming.take(inner, frames)
                inner.read_ahead = inner.read_ahead + sum(f.size for f in frames) if is_full else 0
                if inner.read_ahead > HELD_LIMIT:
                    inner.is_flooding = True
                    raise ProtocolError(f"{HELD_LIMIT} bytes of messages came before an answer")
            except (WireBroken, ProtocolError, OverMessage) as exc:
                inner.failure = exc
                raise
            except BaseException:
                inner.sever(INTERRUPTED)
                raise
            inner.is_torn = False

    def read_for(self, message: OutMessage, inner: Inner, deadline: Deadline) -> None:
        """In the caller's thread: until the message is settled, or only the thread can go on."""
        try:
            while not message.is_settled and (left := deadline.remaining()) > 0:
                self._turns.goes_on()
                if not inner.wire.poll(min(left, SLICE)):
                    break
                self._read(inner)
        except (WireBroken, ProtocolError, OverMessage):
            pass  # the thread finds it in `Inner.failure`
        finally:
            self._turns.leaves(message)
            if self._session.awaits_answers:
                self.unpark()

    # --- who reads: see `turns`; the lock is held, where nothing else is said -------------------

    def takes_turn(self, message: OutMessage) -> Inner | None:
        """The link on which the sender of this message is to read its receipt himself."""
        link, outbox = self._session.link, self._session.sender.outbox
        if link is None:
            return None
        is_alone = len(outbox) == outbox.in_flight == 1
        if self._turns.joins(message, is_alone, time.monotonic()):
            return link
        self.unpark()
        return None

    def _parks(self, inner: Inner) -> bool:
        session = self._session
        unasked = session.subscriptions or session.commands or session.promised
        may_come = unasked or self._expects_replies
        is_quiet = session.link is inner and not may_come and inner.wire.can_poll
        return self._turns.parks(is_quiet, session.sender.outbox.is_empty, time.monotonic())

    def expect_replies(self) -> None:
        """A message asks for answers, which come at any time; without the lock."""
        with self._session.lock:
            self._expects_replies = True
            self.unpark()

    def unpark(self) -> None:
        """There is something that only the thread can do; also without the lock."""
        if self._turns.is_parked and self.inner is not None:
            self.inner.wire.wake()

    # --- restoring ------------------------------------------------------------------------------

    def _restore(self, inner: Inner) -> None:
        session = self._session
        deadline = Deadline(session.options.connect_timeout / 1000)
        while True:
            with session.lock:
                missing = [s for s in session.subscriptions.values() if s.link is not inner]
                if not missing:
                    for transaction in session.transactions.values():
                        self._begin_again(transaction, inner)
                    is_first, session.is_connected = not session.is_connected, True
                    session.link = inner
                    break
            for subscription in missing:
                self._subscribe_again(subscription, inner, deadline)
        self._tell_restored(inner, is_first)
        session.link_changed()

    def _subscribe_again(
        self, subscription: Subscription, inner: Inner, deadline: Deadline
    ) -> None:
        with self._session.lock:
            if self._session.subscriptions.get(subscription.id) is not subscription:
                return  # unsubscribed, or given up by its caller, while others were restored
            command = self._session.write_subscribe(subscription, inner)
        while not command.is_done:
            inner.wire.wait(deadline)
            self._read(inner)
            deadline.check()
        self._session.subscribed(subscription, command, inner)

    def _begin_again(self, transaction: Transaction, inner: Inner) -> None:
        """The lock is held."""
        session = self._session
        if transaction.link is inner or transaction.log.is_doomed:
            return
        transaction.link = inner
        inner.send(encode("BEGIN", transaction.headers, version=session.handshake.version))
        for message in transaction.log.replay:
            message.resend = True
            receipt = session.transaction_receipt(transaction, inner)
            inner.send(message.frame(inner.dialect, receipt))

    def _tell_restored(self, inner: Inner, is_first: bool) -> None:
        session = self._session
        shown = self._incoming.shown(inner.connected)
        place = session.transport.current_host_and_port
        jobs: list[Job] = [("resumed", (shown,), 0, None)]
        if is_first:
            jobs = [("connecting", (place,), 0, None), ("connected", (shown,), 0, None)]
        session.dispatcher.put(jobs)

    # --- losing ---------------------------------------------------------------------------------

    def _lost(self, inner: Inner, reason: str, cause: Exception | None) -> None:
        session = self._session
        with inner.reading:
            inner.is_torn = True  # what a caller reads from now on is nobody's any more
        with session.lock:
            was_up = session.link is inner
            session.link = self.inner = None
            alone = session.only_messages_wait(inner)
            if isinstance(cause, OverMessage):
                session.sender.closed_over_message(reason, alone)
            elif is_silent_close(inner, cause):
                session.sender.closed_silently(alone)
            else:
                session.sender.link_lost()
            for subscription in session.subscriptions.values():
                subscription.link = None
            for transaction in session.transactions.values():
                transaction.link_lost()
            commands = session.forget_commands()
        for command in commands:
            command.lose()
        monitor.forget(inner)
        if session.is_over:
            session.supervisor.released(inner)
        else:
            session.supervisor.lost(inner, reason)
            if was_up:
                session.dispatcher.put([("interrupted", (reason,), 0, None)])
        inner.sever(reason)
        inner.close()
        session.dispatcher.drop_void()


def is_silent_close(inner: Inner, cause: Exception | None) -> bool:
    """Whether the broker closed in good order, and is one that refuses messages that way."""
    by_peer = isinstance(cause, WireBroken) and cause.orderly and inner.dead is None
    return by_peer and inner.dialect.refuses_silently
