"""Publishing that survives the broker.

Rules
* A channel is in confirm mode from its first message on, unless the application asked for tx (the
  two exclude each other) or the URI says confirms=false. `basic_publish` returns when the broker
  has confirmed; what was not confirmed when a link broke is sent again, with the same id, marked.
* Without its own `confirm_delivery` the application never sees a nack or an unroutable message as
  an error, as in pika: a nack is logged and told as `MessageFailed`, a returned message goes to its
  on_return callback.
* A message whose sending made brokers close the connection twice is refused; only closes at which
  nothing else was outstanding on the connection count. Others wait meanwhile (`core.suspects`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pika.adapters.blocking_connection import ReturnedMessage, _ReturnedMessageEvt

from understudy.errors import DeliveryFailed
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import logger
from understudy.pika import refusals
from understudy.pika.errors import Nacked, Unroutable, refused
from understudy.pika.link_channel import LinkChannel, LinkLost, Sent
from understudy.pika.message import OutMessage, id_of
from understudy.pika.refusals import nacked, unroutable
from understudy.pika.requests import HIGH_WATER, Verdicts, check_size, too_late
from understudy.pika.transactions import Transactions
from understudy.pika.wire import Wire

__all__ = ["Publishing"]

LOOK_PERIOD = 0.01  # s between two looks at what came, where nothing waits for it
REPLIES = "amq.rabbitmq.reply-to"


class Publishing(Transactions):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._delivery_confirmation = False  # the application's own wish
        self._on_return: list[Callable[..., Any]] = []
        self._look_again = 0.0

    # --- one by one -----------------------------------------------------------------------------

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: Any,
        properties: Any = None,
        mandatory: bool = False,
    ) -> None:
        """As pika's, but it returns when the broker has confirmed (see the module).

        Raises SendTimeout, ConnectFailed when reconnecting was given up, and the broker's refusal;
        with ``trackMessages`` only what concerns the wait for room in the outbox.
        """
        message = OutMessage(exchange, routing_key, body, properties, mandatory)
        session = self._session
        fanout = self._connection._fanout
        if fanout is not None and fanout.takes(message):
            self._raise_if_not_open()
            try:
                fanout.publish(message, session.deadline())
            except (Nacked, Unroutable) as exc:
                if self._delivery_confirmation:
                    raise
                self._tell_failed(exc)
            return
        with session.lock:
            self._raise_if_not_open()
            if self._log is not None:
                self._publish_in_transaction(message, self._log)
                return
            tracked = self._connection._tracked
            if tracked is not None and message.properties.reply_to != REPLIES:
                tracked.put(message, self, session.deadline())
                return
            sent = self._publish(message, session.deadline())
        if not sent.ok or sent.returned is not None:
            self._report(sent)

    def publish_until(self, message: OutMessage, deadline: Deadline) -> Sent:
        """The same within another bound; how it ended is the caller's to judge."""
        with self._session.lock:
            self._raise_if_not_open()
            return self._publish(message, deadline)

    def _publish(self, message: OutMessage, deadline: Deadline) -> Sent:
        thread = threading.get_ident()
        try:
            return self._publish_until_settled(message, deadline)
        finally:
            self._session.over.add(thread)
            self._session.end()

    def _publish_until_settled(self, message: OutMessage, deadline: Deadline) -> Sent:
        session = self._session
        confirms = session.options.confirms or self._delivery_confirmation
        verdicts = Verdicts()
        written = False
        while True:
            sent = None
            try:
                wire = session.begin(deadline)
                if wire.unwritten > HIGH_WATER:
                    self._wait_for_room(wire, deadline)
                    continue  # another thread may have brought another wire
                link = self._open_link()
                check_size(message, wire)
                if confirms and not link.is_confirming:
                    link.select_confirms()
                if written:
                    message.mark_resend()
                sent = link.publish(message)
                written = True
                if not confirms:
                    self._let_go(sent, wire, deadline)
                elif not session.wait(wire, sent.is_settled, deadline.moment):
                    raise DeadlinePassed
            except LinkLost as lost:
                counts = sent is not None and lost.convicts(own=int(link.is_confirming))
                if culprit := verdicts.note(lost.cause, counts):
                    raise refused(culprit, message.message_id) from None
            except DeadlinePassed:
                raise too_late(message, written, session, deadline) from None
            else:
                if sent.failed is not None:
                    raise refused(sent.failed, message.message_id)
                return sent

    def _wait_for_room(self, wire: Wire, deadline: Deadline) -> None:
        """While a broker reads nothing, what was given up must not pile up behind it."""
        if not self._session.wait(wire, lambda: wire.unwritten <= HIGH_WATER, deadline.moment):
            raise DeadlinePassed

    def _let_go(self, sent: Sent, wire: Wire, deadline: Deadline) -> None:
        """Fire and forget: it is over when the socket has taken the message."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + LOOK_PERIOD
            wire.serve()
        if not self._session.wait(wire, lambda: not wire.unwritten, deadline.moment):
            raise DeadlinePassed
        sent.ok = True

    def _report(self, sent: Sent) -> None:
        """It is confirmed, but not as one would wish."""
        back = None if sent.returned is None else ReturnedMessage(*sent.returned)
        if not sent.ok:
            error = nacked(sent.message_id, [] if back is None else [back])
            if self._delivery_confirmation:
                raise error
            self._tell_failed(error)
        elif self._delivery_confirmation:
            raise unroutable(sent.message_id, back)

    def _tell_failed(self, error: DeliveryFailed) -> None:
        refusals.tell(self._session.supervisor, str(error), error.message_id)

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        """The messages themselves know (`LinkChannel.unsettled`)."""

    def returned(self, method: Any, properties: Any, body: bytes) -> None:
        key = id_of(properties)
        link = self._link
        for sent in link.unsettled.values() if link is not None else ():
            if sent.message_id == key and sent.returned is None:
                sent.returned = method, properties, body
                break
        self._tell_returned(method, properties, body)

    def _tell_returned(self, method: Any, properties: Any, body: bytes) -> None:
        for callback in self._on_return:
            event = _ReturnedMessageEvt(callback, self, method, properties, body)
            self._add_pending_event(event)

    def add_on_return_callback(self, callback: Callable[..., Any]) -> None:
        """As pika's: called with (channel, method, properties, body)."""
        self._on_return.append(callback)

    def confirm_delivery(self) -> None:
        """As pika's: from now on a nack and an unroutable message raise."""
        with self._session.lock:
            if self._delivery_confirmation:
                logger.error("confirm_delivery: already enabled on channel %s", self.number)
                return
            self._exchange(self._select_confirms, "Confirm.Select")
            self._delivery_confirmation = True

    def _select_confirms(self, link: LinkChannel) -> Any:
        return link.select_confirms()
