"""Consumers of an `AsyncChannel`: deliveries in, acknowledgements out.

Rules
* Delivery tags rise over all links: the broker's tag plus all tags of earlier links (`_offset`). An
  acknowledgement for an earlier link's delivery is dropped and counted: that message comes again.
* An acknowledgement that the broker would close the channel over (a tag that waits for none) is
  refused here.
* When a link is lost, what has to be acknowledged and was not taken yet is dropped, because it
  comes again; what came with auto_ack is kept.
* A message for a call that was cancelled goes back into its queue.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

from pika import exceptions, spec

from understudy.core.transaction import TransactionLog
from understudy.failover.deadline import NEVER, Deadline
from understudy.failover.notifier import logger
from understudy.pika.async_consumer import Consumer, Message
from understudy.pika.async_requests import AsyncRequests
from understudy.pika.async_session import AsyncSession
from understudy.pika.link_channel import Ask, LinkChannel

__all__ = ["AsyncReceiving"]


class AsyncReceiving(AsyncRequests):
    def __init__(self, session: AsyncSession, number: int) -> None:
        super().__init__(session, number)
        self._consumers: dict[str, Consumer] = {}
        self._qos: Any = None
        self._global_qos: Any = None
        self._offset = 0  # tags of earlier links
        self._highest = 0  # tag of this link
        self._taken = 0  # the highest tag that the application was given, with its offset
        self._unacked: set[int] = set()  # tags of this link that wait for an acknowledgement
        self._log: TransactionLog[Any] | None = None  # while it has transactions
        self._acked_in_transaction: set[int] = set()  # tags of this link

    async def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, global_qos: bool = False
    ) -> None:
        method = spec.Basic.Qos(prefetch_size, prefetch_count, global_qos)
        name = "_global_qos" if global_qos else "_qos"
        keep = lambda: setattr(self, name, method)  # noqa: E731
        await self.request_for_good(method, spec.Basic.QosOk, keep, [])

    def consume(
        self,
        queue: str = "",
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Consumer:
        """The messages of a queue, to iterate over; see `Consumer`. Set a qos before."""
        self._check_open()
        tag = consumer_tag or f"ctag{self.number}.{uuid.uuid4().hex}"
        method = spec.Basic.Consume(
            queue=queue or self._last_queue,
            consumer_tag=tag,
            no_ack=auto_ack,
            exclusive=exclusive,
            arguments=arguments or {},
        )
        return Consumer(self, tag, method)

    async def begin_consumer(self, consumer: Consumer) -> None:
        self._check_open()
        tag = consumer.consumer_tag
        if self._consumers.get(tag) is consumer:  # an attempt that was cancelled comes to its end
            await self.wait_for(lambda: tag not in self._consumers or self.is_closed)
            self._check_open()
        if tag in self._consumers:
            raise exceptions.DuplicateConsumerTag(tag)
        consumer.prepare(self._qos)
        self._consumers[tag] = consumer
        asked: list[tuple[LinkChannel, Ask]] = []
        try:
            await self.request_for_good(
                consumer.consume, spec.Basic.ConsumeOk, consumer.activate, asked
            )
        except BaseException:
            self._put_back(consumer.end(None))
            if asked:
                self._cancel_when_begun(consumer, *asked[-1])
            else:
                self._forget(consumer)
            raise

    def _cancel_when_begun(self, consumer: Consumer, link: LinkChannel, ask: Ask) -> None:
        """RabbitMQ 3.10 crashes the channel (541) when a cancel overtakes its consume-ok."""
        self._session.when(
            lambda: ask.is_over() or link is not self._link,
            lambda: self._cancel_at_broker(consumer),
        )

    async def cancel_consumer(self, consumer: Consumer) -> None:
        self._put_back(consumer.end(None))
        self._session.changed()
        self._cancel_at_broker(consumer)
        await self._session.until(
            lambda: self._consumers.get(consumer.consumer_tag) is not consumer or self.is_closed,
            self._session.deadline().moment,
        )

    def _cancel_at_broker(self, consumer: Consumer) -> None:
        """It stays known until the broker has answered, for deliveries that are on their way."""
        session, link, wire = self._session, self._link, self._session.wire
        if self._fresh is not None:  # it is just being restored, the consumer too
            session.when(lambda: self._fresh is None, lambda: self._cancel_at_broker(consumer))
            return
        if link is None or wire is None or wire.lost is not None:
            self._forget(consumer)
            return
        method = spec.Basic.Cancel(consumer_tag=consumer.consumer_tag)
        with session.writing(wire):
            ask = link.ask(method, spec.Basic.CancelOk)
        session.when(lambda: ask.is_over() or wire.lost is not None, lambda: self._forget(consumer))

    def _forget(self, consumer: Consumer) -> None:
        if self._consumers.get(consumer.consumer_tag) is consumer:
            del self._consumers[consumer.consumer_tag]
        if consumer.has_consumed:
            self._session.forget_unused_queue(consumer.consume.queue)
        self._session.changed()

    def _put_back(self, messages: list[Message]) -> None:
        for message in [] if self.is_closed or self._session.is_closed else messages:
            self._settle(spec.Basic.Reject, message.delivery_tag, False, requeue=True)

    def consumes(self, queue: str) -> bool:
        return any(consumer.consume.queue == queue for consumer in self._consumers.values())

    async def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Wait for a consumer; raises when there will be no broker."""
        await self._session.ready(is_there)

    def taken(self, message: Message) -> None:
        """The application has got it."""
        self._taken = max(self._taken, message.delivery_tag)

    async def basic_get(self, queue: str = "", auto_ack: bool = False) -> Message | None:
        """One message, or None; its ``method.message_count`` tells how many are left."""
        method = spec.Basic.Get(queue=queue or self._last_queue, no_ack=auto_ack)
        while True:
            link, ask = await self._get(method)
            if ask.content is None:
                return None
            got, properties, body = ask.content
            if link is self._link:
                self._note_delivery(got, auto_ack)
            elif not auto_ack:
                continue  # the link was lost at this moment: it comes again
            else:
                got.delivery_tag = self._offset
            message = Message(self, got, properties, body)
            self.taken(message)
            return message

    async def _get(self, method: Any) -> tuple[LinkChannel | None, Ask]:
        asked: list[tuple[LinkChannel, Ask]] = []
        try:
            ask = await self.request(method, spec.Basic.GetOk, spec.Basic.GetEmpty, asked=asked)
        except BaseException:
            if asked:  # its message has nobody who takes it
                self._put_back_when_got(*asked[-1])
            raise
        return asked[-1][0], ask

    def _put_back_when_got(self, link: LinkChannel, ask: Ask) -> None:
        def put_back() -> None:
            wire = self._session.wire
            if ask.content is not None and link is self._link and wire is not None:
                tag = ask.content[0].delivery_tag
                self._highest = max(self._highest, tag)
                with self._session.writing(wire):
                    link.send(spec.Basic.Reject(tag, requeue=True))

        self._session.when(lambda: ask.is_over() or link is not self._link, put_back)

    async def basic_recover(self, requeue: bool = False) -> None:
        """As pika's: what waits for an acknowledgement comes again, with other tags."""
        asked: list[tuple[LinkChannel, Ask]] = []
        link, unacked = self._link, set(self._unacked)
        method = spec.Basic.Recover(requeue=requeue)
        await self.request(method, spec.Basic.RecoverOk, asked=asked)
        if link is not None and asked[0][0] is link is self._link:
            self._unacked -= unacked
            for consumer in self._consumers.values():
                consumer.forget({tag + self._offset for tag in unacked})

    async def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """One of an earlier connection is dropped and counted. Never waits for a broker."""
        await self._idle()
        self._settle(spec.Basic.Ack, delivery_tag, multiple)

    async def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        """As `basic_ack`."""
        await self._idle()
        self._settle(spec.Basic.Nack, delivery_tag, multiple, requeue=requeue)

    async def basic_reject(self, delivery_tag: int, requeue: bool = True) -> None:
        """As `basic_ack`."""
        await self._idle()
        self._settle(spec.Basic.Reject, delivery_tag, False, requeue=requeue)

    async def _idle(self, deadline: Deadline = NEVER) -> None:
        """Nothing goes on that what comes next has to wait for."""

    def _settle(self, kind: Any, tag: int, multiple: bool, **options: Any) -> None:
        self._check_open()
        is_all = tag == 0 and multiple
        if is_all:
            tag = self._taken  # all that the application was given, not what it never saw
        elif tag <= 0:
            raise ValueError(f"delivery tags begin with 1; {tag} is none")
        real = tag - self._offset
        link, wire = self._fresh or self._link, self._session.wire
        if real <= 0 or link is None or not link.is_open or wire is None or wire.lost is not None:
            if tag:
                self._session.stale_acks += 1
                if self._log is not None:
                    self._log.stale_ack()
            return
        settled = {one for one in self._unacked if one <= real} if multiple else {real}
        if is_all:
            if not settled:
                return
            real = max(settled)
        if real not in self._unacked:
            raise ValueError(f"delivery tag {tag} does not wait for an acknowledgement")
        self._unacked -= settled
        if self._log is not None:
            self._log.acked()
            self._acked_in_transaction |= settled
        flags = {"multiple": multiple, **options} if kind is not spec.Basic.Reject else options
        with self._session.writing(wire):
            link.send(kind(delivery_tag=real, **flags))

    # --- what comes in: within `Wire.serve` -----------------------------------------------------

    def delivered(self, method: Any, properties: Any, body: bytes) -> None:
        consumer = self._consumers.get(method.consumer_tag)
        if consumer is None:
            logger.warning("a delivery for the unknown consumer %s", method.consumer_tag)
            return
        tag = method.delivery_tag
        self._note_delivery(method, consumer.auto_ack)
        if not consumer.is_over or consumer.auto_ack:
            consumer.receive(Message(self, method, properties, body))
        else:
            self._unacked.discard(tag)
            link = self._fresh or self._link
            assert link is not None
            link.send(spec.Basic.Reject(tag, requeue=True))

    def _note_delivery(self, method: Any, auto_ack: bool) -> None:
        tag = method.delivery_tag
        self._highest = max(self._highest, tag)
        if not auto_ack:
            self._unacked.add(tag)
        method.delivery_tag = tag + self._offset

    def cancelled(self, method_frame: Any) -> None:
        consumer = self._consumers.get(method_frame.method.consumer_tag)
        if consumer is not None:
            consumer.cancelled_by_broker()
            self._forget(consumer)

    # --- restoring ------------------------------------------------------------------------------

    def _receiving_requests(self) -> Iterator[Any]:
        if self._global_qos is not None:
            yield self._global_qos
        qos = None
        for consumer in self._consumers.values():
            if not consumer.is_active:
                continue
            if consumer.qos is not qos:
                qos = consumer.qos
                yield qos
            yield consumer.consume
        if self._qos is not qos:
            yield self._qos

    def _forget_deliveries(self) -> None:
        """The link is over: what has to be acknowledged comes again."""
        self._offset += self._highest
        self._highest = 0
        self._unacked.clear()
        self._acked_in_transaction.clear()
        for consumer in list(self._consumers.values()):
            consumer.link_lost()
            if consumer.is_over:
                self._forget(consumer)
