"""Consumers that survive the broker: deliveries in, callbacks out.

Rules
* What has come is acknowledged as `acknowledging` says.
* When a link is lost, deliveries in the buffer that have to be acknowledged are dropped, because
  they come again; those of consumers with auto_ack are kept, because they do not.
* Callbacks run on the thread that processes events, with the lock released.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pika import exceptions, spec, validators
from pika.adapters import blocking_connection as blocking

from understudy.failover.notifier import logger
from understudy.pika.acknowledging import Acknowledging
from understudy.pika.link_channel import LinkChannel, LinkLost

__all__ = ["Cancellation", "Consuming", "Delivery"]

Delivery = blocking._ConsumerDeliveryEvt
Cancellation = blocking._ConsumerCancellationEvt
Info = blocking._ConsumerInfo


class Consuming(Acknowledging):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._pending_events: deque[Any] = deque()
        self._consumer_infos: dict[str, Any] = {}
        self._consumes: dict[str, tuple[Any, Any]] = {}  # tag -> consume, the qos it began under
        self._restoring: dict[str, Any] = {}  # tag -> consume, as the last restored link was asked
        self._qos: Any = None
        self._global_qos: Any = None
        self._queue_consumer_generator: Any = None
        self._on_cancel: list[Callable[[Any], Any]] = []
        self._last_queue = ""  # what an empty name means

    # --- restoring ------------------------------------------------------------------------------

    def _consuming_requests(self) -> Iterator[Any]:
        self._restoring = {}
        if self._global_qos is not None:
            yield self._global_qos
        qos = None
        for tag, (consume, began_under) in self._consumes.items():
            info = self._consumer_infos.get(tag)
            if info is None or info.cancelled_by_broker or info.tearing_down:
                continue
            if began_under is not qos:
                qos = began_under
                yield qos
            self._restoring[tag] = consume
            yield consume
        if self._qos is not qos:
            yield self._qos

    def _cancel_unwanted(self, link: LinkChannel) -> None:
        """What was cancelled while its consumer was being restored."""
        for tag in self._restoring:
            if tag not in self._consumes:
                link.ask(spec.Basic.Cancel(consumer_tag=tag), spec.Basic.CancelOk)

    def _forget_deliveries(self) -> None:
        """The link is over: what has to be acknowledged comes again."""
        self._forget_tags()
        self._forget_buffered(None)

    def _forget_buffered(self, tags: set[int] | None) -> None:
        """Of what has to be acknowledged: these come again; None = all of them."""
        self._pending_events = self._kept(self._pending_events, tags)
        generator = self._queue_consumer_generator
        if generator is not None:
            generator.pending_events = self._kept(generator.pending_events, tags)

    def _kept(self, events: Iterable[Any], gone: set[int] | None) -> deque[Any]:
        kept: deque[Any] = deque()
        for event in events:
            if type(event) is Delivery and (gone is None or event.method.delivery_tag in gone):
                info = self._consumer_infos.get(event.method.consumer_tag)
                if info is None or not info.auto_ack:
                    self._session.buffered -= len(event.body)
                    continue
            kept.append(event)
        return kept

    # --- what comes in: under the lock ------------------------------------------------------------

    def delivered(self, method: Any, properties: Any, body: bytes) -> None:
        tag = self._highest = method.delivery_tag
        info = self._consumer_infos.get(method.consumer_tag)
        if info is None:
            self._give_back_unwanted(method)
            return
        if info.tearing_down and not info.auto_ack:
            self._write_settle(spec.Basic.Reject.INDEX, tag, 1)
            return
        if not info.auto_ack:
            self._unsettled.add(tag)
        method.delivery_tag = tag + self._offset
        self._session.buffered += len(body)
        event = Delivery(method, properties, body)
        if info.alternate_event_sink is not None:
            info.alternate_event_sink(event)
        else:
            self._add_pending_event(event)

    def _give_back_unwanted(self, method: Any) -> None:
        consume = self._restoring.get(method.consumer_tag)
        if consume is None:
            logger.warning("a delivery for the unknown consumer %s", method.consumer_tag)
        elif not consume.no_ack:
            self._write_settle(spec.Basic.Reject.INDEX, method.delivery_tag, 1)

    def cancelled(self, method_frame: Any) -> None:
        info = self._consumer_infos.get(method_frame.method.consumer_tag)
        if info is None:
            return
        if not info.tearing_down:
            info.state = Info.CANCELLED_BY_BROKER
        event = Cancellation(method_frame)
        if info.alternate_event_sink is not None:
            info.alternate_event_sink(event)
        else:
            self._add_pending_event(event)

    def _add_pending_event(self, event: Any) -> None:
        self._pending_events.append(event)
        self._connection._request_channel_dispatch(self.number)

    # --- dispatching: without the lock ------------------------------------------------------------

    def _dispatch_events(self) -> None:
        session = self._session
        while True:
            with session.lock:
                if not self._pending_events:
                    return
                event = self._pending_events.popleft()
                if type(event) is Delivery:
                    session.buffered -= len(event.body)
                    info = self._consumer_infos.get(event.method.consumer_tag)
                    self._taken = event.method.delivery_tag
                    callback = info.on_message_callback if info is not None else None
            if type(event) is Delivery:
                if callback is not None:
                    callback(self, event.method, event.properties, event.body)
            elif type(event) is Cancellation:
                self._forget_consumer(event.method.consumer_tag)
                for told in list(self._on_cancel):
                    told(event.method_frame)
            else:
                event.dispatch()

    def _forget_consumer(self, tag: str) -> None:
        with self._session.lock:
            self._consumer_infos.pop(tag, None)
            known = self._consumes.pop(tag, None)
            if known is not None:
                self._connection._forget_unused_queue(known[0].queue)
            # Schedule termination of process_data_events using a negative channel number
            self._connection._request_channel_dispatch(-self.number)
            self._session.notify()

    # --- consumers --------------------------------------------------------------------------------

    def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, global_qos: bool = False
    ) -> None:
        validators.zero_or_greater("prefetch_size", prefetch_size)
        validators.zero_or_greater("prefetch_count", prefetch_count)
        method = spec.Basic.Qos(prefetch_size, prefetch_count, global_qos)
        with self._session.lock:
            self._request(method, spec.Basic.QosOk)
            if global_qos:
                self._global_qos = method
            else:
                self._qos = method

    def basic_consume(
        self,
        queue: str,
        on_message_callback: Callable[..., Any],
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> str:
        validators.require_string(queue, "queue")
        validators.require_callback(on_message_callback, "on_message_callback")
        return self._basic_consume_impl(
            queue=queue,
            on_message_callback=on_message_callback,
            auto_ack=auto_ack,
            exclusive=exclusive,
            consumer_tag=consumer_tag,
            arguments=arguments,
        )

    def _generate_consumer_tag(self) -> str:
        return f"ctag{self.number}.{uuid.uuid4().hex}"

    def _basic_consume_impl(
        self,
        queue: str,
        auto_ack: bool,
        exclusive: bool,
        consumer_tag: str | None,
        arguments: dict[str, Any] | None = None,
        on_message_callback: Callable[..., Any] | None = None,
        alternate_event_sink: Callable[[Any], Any] | None = None,
    ) -> str:
        tag = consumer_tag or self._generate_consumer_tag()
        with self._session.lock:
            self._raise_if_not_open()
            if tag in self._consumer_infos:
                raise exceptions.DuplicateConsumerTag(tag)
            info = Info(
                tag,
                auto_ack=auto_ack,
                on_message_callback=on_message_callback,
                alternate_event_sink=alternate_event_sink,
            )
            self._consumer_infos[tag] = info
            method = spec.Basic.Consume(
                queue=queue or self._last_queue,
                consumer_tag=tag,
                no_ack=auto_ack,
                exclusive=exclusive,
                arguments=dict(arguments or {}),
            )
            try:
                self._exchange_for_good(
                    lambda link: link.ask(method, spec.Basic.ConsumeOk), method.NAME
                )
            except BaseException:
                self._consumer_infos.pop(tag, None)
                self._connection._request_channel_dispatch(-self.number)
                raise
            self._consumes[tag] = method, self._qos
            if info.setting_up:
                info.state = Info.ACTIVE
        return tag

    def basic_cancel(self, consumer_tag: str) -> list[tuple[Any, Any, bytes]]:
        """As pika's; without a broker it is over at once."""
        session = self._session
        with session.lock:
            self._raise_if_not_open()
            info = self._consumer_infos.get(consumer_tag)
            if info is None:
                logger.warning("cancelling the unknown consumer %s", consumer_tag)
                return []
            was_cancelled = info.cancelled_by_broker
            info.state = Info.TEARING_DOWN
            try:
                pending = self._remove_pending_deliveries(consumer_tag)
                if not info.auto_ack:
                    self._give_back(pending)
                if not was_cancelled:
                    self._cancel_at_broker(consumer_tag)
                if not info.auto_ack:
                    return []
                pending = [*pending, *self._remove_pending_deliveries(consumer_tag)]
                return [(event.method, event.properties, event.body) for event in pending]
            finally:
                self._forget_consumer(consumer_tag)

    def _cancel_at_broker(self, consumer_tag: str) -> None:
        session, wire, link = self._session, self._session.wire, self._link
        if wire is None or link is None:
            return  # it is not restored any more; one that just is, is cancelled then
        deadline = session.deadline()
        ask = link.ask(spec.Basic.Cancel(consumer_tag=consumer_tag), spec.Basic.CancelOk)
        try:
            if not session.wait(wire, ask.is_over, deadline.moment):
                wire.sever("no answer to Basic.Cancel within timeout")
        except LinkLost:
            return

    def _remove_pending_deliveries(self, consumer_tag: str) -> list[Any]:
        """Take a consumer's events out of the buffer; returns its deliveries."""
        removed, rest = [], deque[Any]()
        for event in self._pending_events:
            mine = type(event) in (Delivery, Cancellation)
            if mine and event.method.consumer_tag == consumer_tag:
                if type(event) is Delivery:
                    removed.append(event)
                    self._session.buffered -= len(event.body)
            else:
                rest.append(event)
        self._pending_events = rest
        return removed

    def start_consuming(self) -> None:
        """As pika's: process events until all consumers of this channel are cancelled."""
        self._connection._check_not_dispatching("start_consuming")
        self._raise_if_not_open()
        while self._consumer_infos:
            self._process_data_events(time_limit=None)

    def _process_data_events(self, time_limit: float | None) -> None:
        self._connection.process_data_events(time_limit=time_limit)
        if self._is_closed and isinstance(self._closing_reason, exceptions.ChannelClosedByBroker):
            raise self._closing_reason

    def basic_get(self, queue: str, auto_ack: bool = False) -> tuple[Any, Any, Any]:
        """As pika's. One that was lost on its way with auto_ack is lost, as in pika."""
        validators.require_string(queue, "queue")
        method = spec.Basic.Get(queue=queue or self._last_queue, no_ack=auto_ack)
        asked: list[LinkChannel] = []

        def ask(link: LinkChannel) -> Any:
            asked.append(link)
            return link.ask(method, spec.Basic.GetOk, spec.Basic.GetEmpty)

        with self._session.lock:
            while True:
                self._raise_if_not_open()
                answer = self._exchange(ask, method.NAME)
                if answer.content is None:
                    return None, None, None
                got, properties, body = answer.content
                if asked[-1] is self._link:
                    self._highest = max(self._highest, got.delivery_tag)
                    if not auto_ack:
                        self._unsettled.add(got.delivery_tag)
                    got.delivery_tag += self._offset
                elif not auto_ack:
                    continue  # another thread has seen the loss of that link: it comes again
                else:
                    got.delivery_tag = self._offset
                self._taken = got.delivery_tag
                return got, properties, body
