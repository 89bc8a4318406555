"""Everything between connect() and disconnect(), as callers see it.

Rules
* `link` is the connection that everything is written to; it is set when all is restored on it. The
  `reader` sets it, and reads; dialing is the supervisor's.
* Callers write under `lock`, which never waits for the network, and wait with no lock held.
* Without a connection nothing raises before the deadline, except when reconnecting was given up:
  then everybody who waits gets the error, and the next call begins anew.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from understudy import discovery
from understudy.core.uri import FailoverURI
from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.notifier import EventCallback, logger
from understudy.failover.supervisor import Supervisor
from understudy.failover.waiters import Waiter, Waiters
from understudy.stomp.dialing import SCHEMES, StompDialer
from understudy.stomp.dispatcher import Dispatcher
from understudy.stomp.ending import flush_at_exit
from understudy.stomp.errors import ConnectFailed, ConnectionLost, ReentrancyError
from understudy.stomp.incoming import Incoming
from understudy.stomp.inner import Handshake, Inner
from understudy.stomp.reader import Reader
from understudy.stomp.sender import Sender
from understudy.stomp.subscriptions import Command, Subscription, Transaction
from understudy.stomp.turns import SLICE
from understudy.stomp.wire import WireBroken
from understudy.wire.stomp import encode

if TYPE_CHECKING:
    from understudy.stomp.transport import Transport

__all__ = ["GOODBYE", "Session"]

GOODBYE = 1.0  # s that a graceful end may take beyond the flush
CLOSED = "the connection was closed while this call waited"


class Session:
    def __init__(
        self,
        uri: FailoverURI,
        handshake: Handshake,
        transport: Transport,
        *,
        beats: tuple[int, int] = (0, 0),
        decode: Callable[[bytes], Any],
        on_event: EventCallback | None = None,
        before: Session | None = None,
    ) -> None:
        """``before`` is the session that ended before; what it tracked and left behind is ours."""
        self.uri = uri
        self.options = uri.options
        self.handshake = handshake
        self.transport = transport
        self.lock = threading.RLock()
        self.link: Inner | None = None
        self.is_connected = False  # also while it finds its next broker
        self.is_closed = False  # after close(), or in a forked child
        self.is_over = False  # also from DISCONNECT on: the end is no loss
        self.stale_acks = 0
        self.subscriptions: dict[str, Subscription] = {}
        self.transactions: dict[str, Transaction] = {}
        self.commands: dict[str, Command] = {}  # by receipt
        self.promised: dict[str, Transaction] = {}  # by receipt; these come after a commit
        self._numbers = itertools.count(1)
        self._waiters = Waiters()  # who waits for a link, or for the end of hope
        self._failed: ConnectFailed | ConnectionLost | None = None
        self._is_idle = False  # given up: the reader waits for somebody to want a connection
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.sender: Sender = Sender(
            self, self.lock, None if before is None else before.sender.outbox
        )
        self.dispatcher = Dispatcher(transport.notify, self._has_room, transport.create_thread_fc)
        self.reader = Reader(self, Incoming(self, decode))
        dialer = StompDialer(handshake, transport, uri.options.heartbeat, beats, self._died)
        self.supervisor: Supervisor[Inner] = Supervisor(uri, dialer, on_event=on_event)
        self.discovery = discovery.attach(uri, self.supervisor, schemes=SCHEMES)
        dialer.discovery = self.discovery
        forking.register(self)
        if self.options.track_messages:
            flush_at_exit(self)

    def __repr__(self) -> str:
        return f"<Session {self.supervisor!r} {self.sender!r}>"

    # --- begin and end --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        with self.lock:
            self.check_open()
            self.supervisor.attach(self)
            self.want()
            if self._thread is None:
                self._thread = forking.start_thread("understudy-stomp", self.reader.run)
                if self._thread is None:
                    raise ConnectFailed("no thread can be started while the interpreter exits")

    def wait_connected(self, deadline: Deadline) -> None:
        """Raises ConnectFailed: it gave up, or the deadline has passed."""
        if self.wait_for(lambda: self.link is not None, deadline):
            return
        attempts = self.supervisor.attempts
        limit = f"{(deadline.seconds or 0) * 1000:.0f}"
        raise ConnectFailed(f"not connected within timeout={limit} ms", attempts)

    def flush_at_close(self) -> None:
        """Flush what is tracked within closeTimeout; what is left then is logged and told.

        Raises what was refused. A caller who waits for a message of his own is told by the end.
        """
        if not self.sender.is_tracking:
            return
        limit = self.options.close_timeout
        try:
            if self.sender.flush(Deadline(limit / 1000)):
                return
            reason = f"not confirmed within closeTimeout={limit} ms"
        except (ConnectFailed, ConnectionLost, ReentrancyError) as exc:
            reason = str(exc)
        self.sender.tell_left_behind(reason)

    def say_goodbye(self, headers: dict[str, Any], deadline: Deadline) -> None:
        """DISCONNECT, and its receipt if the broker gives it in time."""
        receipt = headers.pop("receipt", None)
        with self.lock:
            self.is_over = True
            link = self.link
            if link is None:
                return
            number, command = self.command("DISCONNECT", receipt)
            try:
                link.send(encode("DISCONNECT", {**headers, "receipt": number}))
            except WireBroken:
                return
            link.wire.wake()  # it may be pausing
        while not command.is_over and (left := deadline.remaining()) > 0:
            command.bell.wait(left)

    def close(self) -> None:
        """Leave the broker at once; the listeners are told last."""
        with self.lock:
            self.is_closed = self.is_over = True  # the reader may have ended by itself
            link = self.reader.inner
            thread = self._thread
        self._wanted.set()
        if link is not None:
            link.sever("closed")
        self.discovery.close()
        self.supervisor.close()
        if thread is None:
            self.ended()
        elif thread is not threading.current_thread():
            self._ended.wait(GOODBYE)
            self.dispatcher.wait_ended(GOODBYE)

    def ended(self) -> None:
        """The reader has ended."""
        with self.lock:
            self.is_closed = self.is_over = True
            self.link = None
            self.sender.end_waiting(ConnectionLost(CLOSED))
            commands = self.forget_commands()
        for command in commands:
            command.end(ConnectionLost(CLOSED))
        self.discovery.close()
        self.supervisor.close()
        self._tell_disconnected()
        self.dispatcher.end()
        self._waiters.ring()
        self._ended.set()

    def gave_up(self, error: ConnectFailed | ConnectionLost) -> None:
        """Everybody who waits gets the error; returns when somebody wants a connection again."""
        self._wanted.clear()
        with self.lock:
            if self.is_closed:
                return
            self._failed = error
            self._is_idle = True
            self.sender.gave_up(error)
            commands = self.forget_commands()
        for command in commands:
            command.end(error)
        self._waiters.ring()
        self._tell_disconnected()
        self._wanted.wait()

    def _tell_disconnected(self) -> None:
        with self.lock:
            was_connected, self.is_connected = self.is_connected, False
        if was_connected:
            self.dispatcher.put([("disconnected", (), 0, None)])

    # --- waiting --------------------------------------------------------------------------------

    def check_open(self) -> None:
        """A call begins."""
        if self.is_closed:
            raise ConnectionLost("the connection is closed: call connect() first")

    def raise_if_closed(self) -> None:
        """A call has waited."""
        if self.is_closed:
            raise ConnectionLost(CLOSED)

    def want(self) -> None:
        """A call begins that needs a connection; the lock is held."""
        if self._is_idle:
            self._is_idle = False
            self._failed = None
            self._wanted.set()

    def check_reentry(self) -> None:
        """A call that waits begins; ReentrancyError where its thread holds up the answer."""
        link = self.reader.inner
        at_work = self.lock._is_owned() or self.supervisor.is_mine  # type: ignore[attr-defined]
        if at_work or (link is not None and link.is_mine):
            raise ReentrancyError

    def raise_if_hopeless(self) -> None:
        """Raises what ended the hope for a connection, if something did."""
        with self.lock:
            self.raise_if_closed()
            if self._failed is not None:
                raise self._failed

    def wait_for(self, is_so: Callable[[], bool], deadline: Deadline) -> bool:
        """Until it is so, which `link_changed` may bring; False at the deadline.

        Raises ConnectFailed or ConnectionLost when it never will be.
        """
        waiter = Waiter()
        try:
            while True:
                with self.lock:
                    self._waiters.add(waiter)
                    if is_so():
                        return True
                    self.raise_if_hopeless()
                left = deadline.remaining()
                if left <= 0:
                    return False
                waiter.wait(min(left, SLICE))
                self.hurry()
        finally:
            self._waiters.discard(waiter)

    def link_changed(self) -> None:
        self._waiters.ring()

    def hurry(self) -> None:
        """Somebody waits."""
        if self.link is None and not self.is_closed:
            self.supervisor.hurry()

    # --- the network; the lock is held ----------------------------------------------------------

    @property
    def awaits_answers(self) -> bool:
        """Whether somebody waits for what only reading can bring."""
        return not self.sender.outbox.is_empty or bool(self.commands)

    def only_messages_wait(self, link: Inner) -> bool:
        """Whether an ERROR without a name can only be about a message outside transactions.

        Acknowledgements are not counted: only those of known deliveries are written.
        """
        in_transactions = any(t.link is link and t.log.keys for t in self.transactions.values())
        return not self.commands and not in_transactions

    def something_to_send(self) -> None:
        """The outbox has something. Raises ConnectionLost."""
        self.check_open()
        self.want()
        link = self.link
        if link is None:
            return
        if not self.sender.is_tracking:
            self.sender.pump(link)
            if link.is_paused:
                link.wire.wake()
        elif self.reader.is_asleep:
            self.reader.is_asleep = False
            link.wire.wake()

    def _has_room(self) -> None:
        """The listeners have caught up."""
        link = self.reader.inner
        if link is not None and link.is_paused:
            link.wire.wake()

    def command(self, name: str, receipt: str | None = None) -> tuple[str, Command]:
        """A receipt to ask for, and what becomes of it; ``receipt`` is the application's own."""
        number = f"c{next(self._numbers)}"
        command = self.commands[number] = Command(name, receipt)
        self.reader.unpark()
        return number, command

    def forget_commands(self) -> list[Command]:
        commands = list(self.commands.values())
        self.commands.clear()
        self.promised.clear()
        return commands

    def transaction_receipt(self, transaction: Transaction, inner: Inner) -> str | None:
        """The receipt to ask for with a message of a transaction, where it comes after commit."""
        if not inner.dialect.receipts_wait_for_commit:
            return None
        name = f"t{next(self._numbers)}"
        transaction.awaited.add(name)
        self.promised[name] = transaction
        return name

    def write_subscribe(self, subscription: Subscription, inner: Inner) -> Command:
        name, command = self.command("SUBSCRIBE", subscription.receipt)
        subscription.link = inner
        inner.send(subscription.frame(inner.dialect, name, self.handshake.version))
        return command

    def subscribed(self, subscription: Subscription, command: Command, inner: Inner) -> None:
        """The broker's answer; the lock is not held. Raises WireBroken: the endpoint has failed."""
        if command.error is None:
            subscription.receipt = None  # was told once
            subscription.is_active = True
            subscription.refused_by.clear()
            subscription.bell.ring()
            return
        subscription.refused_by.add(inner.endpoint.address)
        known = {endpoint.address for endpoint in self.supervisor.endpoints}
        if subscription.is_active and not known <= subscription.refused_by:
            raise WireBroken(f"subscription {subscription.id}: {command.error}")
        with self.lock:
            if self.subscriptions.get(subscription.id) is subscription:
                del self.subscriptions[subscription.id]
        subscription.error = command.error
        subscription.bell.ring()
        logger.error("subscription %s is given up: %s", subscription.id, command.error)

    def _died(self, inner: Inner, reason: str) -> None:
        """The monitor takes its peer for dead."""
        inner.sever(reason)
        self.supervisor.lost(inner, reason)

    # --- fork safety: the connections close themselves ------------------------------------------

    def hold(self) -> None:
        self.lock.acquire()

    def let_go(self) -> None:
        self.lock.release()

    def abandon(self) -> None:
        """A forked child has no connection; what was to be sent is the parent's to send."""
        with contextlib.suppress(RuntimeError):  # made while the fork began, and not held
            self.lock.release()  # a caller whose signal handler forks may be waiting for it
        self.lock = threading.RLock()
        self.transport.connecting = threading.RLock()
        self.is_connected = False
        self.sender.abandon()
        self.dispatcher.abandon()
        self.link = self.reader.inner = None
        self.is_closed = self.is_over = True
