"""BlockingConnection: pika's API of a connection, on whichever broker is current."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pika
from pika import exceptions

from understudy.core.uri import FailoverURI
from understudy.failover import fanout
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import EventCallback, checked_callback
from understudy.failover.polling import Wakeup
from understudy.failover.supervisor import Supervisor
from understudy.pika.alarms import AlarmCallbacks
from understudy.pika.channel import BlockingChannel
from understudy.pika.dialing import PikaDialer, read_parameters
from understudy.pika.dispatching import Dispatching
from understudy.pika.errors import ConnectFailed
from understudy.pika.fanout import FanoutPublisher
from understudy.pika.link_channel import Ask
from understudy.pika.requests import answered, timed_out
from understudy.pika.session import Session
from understudy.pika.tracked import TrackedPublisher
from understudy.pika.wire import Wire

__all__ = ["BlockingConnection"]


class BlockingConnection(Dispatching, AlarmCallbacks, pika.BlockingConnection):
    """A drop-in for pika's that survives its broker. Any thread may use it."""

    def __init__(
        self,
        parameters: Any = None,
        _impl_class: Any = None,
        *,
        options: Mapping[str, object] | None = None,
        on_event: EventCallback | None = None,
    ) -> None:
        """Connect.

        ``parameters``: a failover URI, any URI, pika's ConnectionParameters or URLParameters, or a
        list of these (tried in order). ``options`` are those of the URI, by their names there or in
        Python; the URI goes first. ``on_event`` is called with the events of `understudy`, on a
        thread of its own.

        Raises ConfigurationError, and ConnectFailed (also an AMQPConnectionError) when no broker
        could be reached within what the options allow.
        """
        self._make(*read_parameters(parameters, options), checked_callback(on_event))
        self._connect()

    @classmethod
    def unconnected(cls, uri: FailoverURI, on_event: EventCallback) -> BlockingConnection:
        """For one that connects on a thread of its own, and may be closed before it is there."""
        connection = cls.__new__(cls)
        connection._make(uri, {}, on_event)
        return connection

    def _make(
        self, uri: FailoverURI, known: dict[tuple[object, ...], Any], on_event: EventCallback | None
    ) -> None:
        if uri.scheme == "fanout":
            fanout.check(uri)
        self._dialer = PikaDialer(uri, known)
        self._session = Session(uri, self._dialer, on_event)
        tracks = uri.options.track_messages
        self._tracked = TrackedPublisher(self._session) if tracks else None
        self._fanout = (
            FanoutPublisher(uri, self._session.topology, self.unconnected)
            if uri.scheme == "fanout"
            else None
        )
        Dispatching.__init__(self)
        AlarmCallbacks.__init__(self)
        self._session.on_blocked = _blocked_handler(weakref.ref(self))
        self._finalizer = weakref.finalize(
            self, _let_go, self._session.supervisor, self._session.wakeup, self._fanout
        )
        self._finalizer.atexit = False

    def _connect(self) -> None:
        session = self._session
        deadline = session.deadline()
        try:
            with session.lock:
                session.usable(deadline)
        except DeadlinePassed:
            attempts = session.supervisor.attempts
            self._end(200, "not connected")
            limit = session.options.timeout
            text = f"no endpoint could be connected to within timeout={limit} ms"
            raise ConnectFailed(text, attempts) from None
        except BaseException:
            if not session.is_closed:
                self._end(200, "not connected")
            raise

    def __repr__(self) -> str:
        where = self._session.supervisor.current
        state = "closed" if self._session.is_closed else f"on {where}" if where else "connecting"
        return f"<BlockingConnection {state} of {self._session.supervisor.uri}>"

    # --- state ----------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._session.is_closed

    @property
    def is_open(self) -> bool:
        """True between two brokers too: it is closed by the application only."""
        return not self._session.is_closed

    @property
    def stale_acks(self) -> int:
        """Acknowledgements of earlier connections that were dropped."""
        return self._session.stale_acks

    def _capability(self, name: str) -> bool:
        wire = self._session.wire
        return bool(wire.capabilities.get(name, False)) if wire is not None else True

    @property
    def basic_nack_supported(self) -> bool:
        return self._capability("basic.nack")

    @property
    def consumer_cancel_notify_supported(self) -> bool:
        return self._capability("consumer_cancel_notify")

    @property
    def exchange_exchange_bindings_supported(self) -> bool:
        return self._capability("exchange_exchange_bindings")

    @property
    def publisher_confirms_supported(self) -> bool:
        return self._capability("publisher_confirms")

    basic_nack = basic_nack_supported
    consumer_cancel_notify = consumer_cancel_notify_supported
    exchange_exchange_bindings = exchange_exchange_bindings_supported
    publisher_confirms = publisher_confirms_supported

    # --- channels -------------------------------------------------------------------------------

    def channel(self, channel_number: int | None = None) -> Any:
        """As pika's: open a channel. It stays open over failovers, with the same number."""
        session = self._session
        deadline = session.deadline()
        with session.lock:
            self._check_open("channel")
            try:
                wire = session.usable(deadline)
            except DeadlinePassed:
                raise timed_out("Channel.Open", session, deadline) from None
            number = self._number(channel_number, wire)
            channel = session.channels[number] = BlockingChannel(self, session, number)
            try:
                answered(session, channel.opening, "Channel.Open", deadline)
            except BaseException:
                session.channels.pop(number, None)
                raise
            return channel

    def _number(self, wanted: int | None, wire: Wire) -> int:
        taken = {*self._session.channels, *wire.channels}
        if wanted:
            if not isinstance(wanted, int):
                raise exceptions.InvalidChannelNumber(wanted)
            if wanted in taken:
                raise exceptions.ChannelWrongStateError(f"channel {wanted} is open already")
            return wanted
        for number in range(1, wire.channel_max + 1):
            if number not in taken:
                return number
        raise exceptions.NoFreeChannels

    def _forget_unused_queue(self, queue: str) -> None:
        """Under the lock: the broker deletes an auto-delete queue with its last consumer."""
        session = self._session
        if not session.topology.is_auto_delete(queue):
            return
        consumes = (c for channel in session.channels.values() for c in channel._consumes.values())
        if not any(consume.queue == queue for consume, _ in consumes):
            session.topology.forget_queue(queue)

    # --- the rest -------------------------------------------------------------------------------

    def update_secret(self, new_secret: str, reason: str) -> None:
        """As pika's; later connections log in with the new secret too."""
        session = self._session
        with session.lock:
            self._check_open("update_secret")
            told: list[Wire] = []

            def begin(wire: Wire) -> Ask:
                told.append(wire)
                return wire.update_secret(new_secret, reason)

            answered(session, begin, "Connection.UpdateSecret", session.deadline())
            username = told[-1].endpoint.username
            if username is not None:
                self._dialer.secrets[username] = new_secret

    def _check_open(self, what: str) -> None:
        if self._session.is_closed:
            raise exceptions.ConnectionWrongStateError(
                f"BlockingConnection.{what}() called on a closed connection"
            )

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every tracked message is confirmed, at most ``timeout`` seconds.

        True when all are. Raises the refusal of a tracked message, or ConnectFailed when
        reconnecting was given up. Without ``trackMessages`` there is nothing to wait for.
        """
        return True if self._tracked is None else self._tracked.flush(Deadline(timeout))

    def close(self, reply_code: int = 200, reply_text: str = "Normal shutdown") -> None:
        """As pika's, within a bound, whatever state the broker is in.

        Tracked messages are flushed first, and copies of fanout: are waited for, for at most
        ``closeTimeout``; raises what was refused of the tracked ones.
        """
        self._check_open("close")
        try:
            if self._tracked is not None:
                self._tracked.flush_at_close()
        finally:
            with contextlib.suppress(exceptions.ConnectionWrongStateError):
                self._end(reply_code, reply_text)
            self._finalizer.detach()
            with self._session.lock:
                for channel in list(self._session.channels.values()):
                    channel._forget_everything()

    def _end(self, reply_code: int, reply_text: str) -> None:
        if self._fanout is not None:
            self._fanout.close(Deadline(self._session.options.close_timeout / 1000))
        self._session.close(reply_code, reply_text)


def _let_go(supervisor: Supervisor[Wire], wakeup: Wakeup, to_all: FanoutPublisher | None) -> None:
    """The application has dropped its connection without closing it."""
    if to_all is not None:
        to_all.close(Deadline(0))
    supervisor.close()
    wakeup.close()


def _blocked_handler(reference: weakref.ref[BlockingConnection]) -> Callable[[Any], None]:
    def handle(method_frame: Any) -> None:
        connection = reference()
        if connection is not None:
            connection._blocking_changed(method_frame)

    return handle
