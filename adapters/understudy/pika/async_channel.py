"""A channel of an `AsyncConnection`: the calls of pika's channels as coroutines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from pika import spec

from understudy.failover.deadline import Deadline
from understudy.failover.notifier import logger
from understudy.pika.async_publisher import AsyncPublisher
from understudy.pika.async_session import AsyncSession
from understudy.pika.async_transactions import AsyncTransactions
from understudy.pika.declarations import Declarations
from understudy.pika.link import Link
from understudy.pika.link_channel import LinkChannel, LinkLost
from understudy.pika.message import OutMessage
from understudy.pika.wire import GOODBYE, Wire

__all__ = ["AsyncChannel"]

PUBLISH = spec.Basic.Publish.INDEX


class AsyncChannel(Declarations, AsyncTransactions):
    """Made by `AsyncConnection.channel`; names, arguments and answers are pika's.

    Every call but `consume` is to be awaited. Each is bounded by ``timeout`` (SendTimeout),
    survives a failover, and may be cancelled at any point. What the broker refuses is raised by the
    call that it refuses (ChannelClosedByBroker). The broker closes the channel over that; it is
    opened again in place, with its qos and consumers, and deliveries without an acknowledgement
    come again.
    """

    def __init__(self, session: AsyncSession, number: int) -> None:
        super().__init__(session, number)
        self._publisher = AsyncPublisher(session)
        self._on_return: list[Callable[..., Any]] = []

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open" if self._link is not None else "waiting"
        return f"<AsyncChannel {self.number} {state}, {self._publisher!r}>"

    @property
    def is_open(self) -> bool:
        """Until it is closed by the application, whatever brokers do."""
        return not self.is_closed

    async def __aenter__(self) -> AsyncChannel:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- publishing -----------------------------------------------------------------------------

    async def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: Any = None,
        mandatory: bool = False,
    ) -> None:
        """Send a message; returns when a broker has confirmed it.

        With ``trackMessages`` it returns once the outbox has taken it; in a transaction once it is
        on its way. Raises SendTimeout, ConnectFailed when reconnecting was given up, and what the
        broker refuses: Unroutable (only with ``mandatory``), Nacked, Refused.
        """
        self._check_open()
        message = OutMessage(exchange, routing_key, body, properties, mandatory)
        fanout = self._session.fanout
        if self._log is not None:
            await self._publish_in_transaction(message, self._log)
        elif fanout is not None and fanout.takes(message):
            await fanout.publish(message, self._session.deadline())
        else:
            await self.publish_until(message, self._session.deadline())

    async def publish_until(self, message: OutMessage, deadline: Deadline) -> None:
        """Send a message that was made before, to the broker of this channel."""
        await self._publisher.publish(message, deadline)

    def add_on_return_callback(self, callback: Callable[..., Any]) -> None:
        """As pika's: called with (channel, method, properties, body) for each message that came
        back as unroutable; the call that sent it raises Unroutable all the same."""
        self._on_return.append(callback)

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every message of this channel is confirmed; as `AsyncConnection.flush`."""
        return await self.flush_until(Deadline(timeout))

    async def flush_until(self, deadline: Deadline) -> bool:
        return await self._publisher.flush(deadline)

    def pump(self) -> None:
        """There is room to write."""
        self._publisher.pump()

    def _has_published(self) -> bool:
        return self._publisher.has_begun or not self._publisher.is_empty

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Flush tracked messages, for ``closeTimeout`` at most, and close; twice is fine.

        Raises what was refused. What is still without a confirm is logged and told as
        `MessageFailed`; calls that wait end with ConnectionLost.
        """
        if self.is_closed:
            return
        options = self._session.options
        try:
            if options.track_messages:
                await self.flush(options.close_timeout / 1000)
        finally:
            self.end()
            await self._close_link()

    def end(self) -> None:
        """Over for the application, whatever the broker says."""
        self.is_closed = True
        self._publisher.give_up_rest()
        for consumer in list(self._consumers.values()):
            consumer.end(None)
        self._session.changed()

    async def _close_link(self) -> None:
        """At the broker; its number is taken until that has answered."""
        session, wire = self._session, self._session.wire
        if self._fresh is None and self._link is None:
            session.forget_channel(self)
        elif self._link is not None and wire is not None:
            self._ask_to_close(self._link, wire)
        is_gone = lambda: session.channels.get(self.number) is not self  # noqa: E731
        await session.until(is_gone, time.monotonic() + GOODBYE)

    def _ask_to_close(self, link: LinkChannel, wire: Wire) -> None:
        session = self._session
        with session.writing(wire):
            ask = link.close(200, "closed")
        session.when(
            lambda: ask.is_over() or wire.lost is not None,
            lambda: session.forget_channel(self),
        )

    # --- restoring: see `understudy.pika.restoring` ---------------------------------------------

    async def opened(self, deadline: Deadline) -> None:
        """Have it opened for the first time; raises as `AsyncSession.exchange`, and a refusal."""

        def begin(wire: Wire) -> Callable[[], bool]:
            if not self._is_on_a_link() and self._fresh is None:  # else it came with the wire
                self._session.open(self)
            return lambda: self.is_closed or self._is_on_a_link()

        await self._session.exchange(begin, deadline)
        self._check_open()

    def restore_on(self, link: Link) -> LinkChannel:
        self._forget_deliveries()  # of a first attempt on this wire
        self._fresh = link.open_channel(self.number, self)
        self._fresh.keeps_more = lambda: self._publisher.is_awaiting or self._is_in_transaction
        return self._fresh

    def requests(self) -> Iterator[Any]:
        if self._log is not None:
            yield spec.Tx.Select()
        yield from self._receiving_requests()

    def restored(self, channel: LinkChannel) -> None:
        self._link, self._fresh = channel, None
        self.is_kept = True
        if self.is_closed:
            assert self._session.wire is not None
            self._ask_to_close(channel, self._session.wire)
            return
        self._replay(channel)
        if self._log is None:
            self._publisher.begin(channel)

    def could_not_be_restored(self, cause: Exception) -> None:
        """The broker had closed it; it was opened again, and a consumer was refused now."""
        consumers = [one for one in self._consumers.values() if one.is_active]
        for consumer in consumers:
            consumer.end(cause)
            self._forget(consumer)
        if not consumers:
            self._reason = cause
            self.end()

    # --- what comes in: within `Wire.serve` -----------------------------------------------------

    def returned(self, method: Any, properties: Any, body: bytes) -> None:
        self._publisher.returned(method, properties, body)
        for callback in self._on_return:
            self._session.loop.call_soon(callback, self, method, properties, body)

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        self._publisher.settled(tag, multiple, ok)

    def closed(self, reason: Exception) -> None:
        """The broker has closed it: what it refuses is known, and it is opened again."""
        link = self._link
        if link is None:
            return  # while it is restored; see `restoring`
        over = link.closed_over
        self._culprit = next((ask for ask, index in self._asks if index == over), None)
        self._transaction_broken(reason)
        if over == PUBLISH:
            self._publisher.closed_over_a_message(reason)
        elif self._culprit is None:
            logger.warning("channel %s is opened again: %s", self.number, reason)
        self._link_over()
        self._session.open(self)

    # --- losses ---------------------------------------------------------------------------------

    @property
    def is_alone(self) -> bool:
        """Whether nothing but its messages waits for an answer on the wire."""
        return self._link is not None and self._link.is_alone()

    def link_lost(self, lost: LinkLost, *, alone: bool) -> None:
        """The wire is over; ``alone`` as in `is_alone`."""
        if lost.is_verdict and lost.cause is not None:
            self._publisher.closed_over_a_message(lost.cause, alone=alone)
        self._transaction_lost(lost)
        self._link_over()
        if self.is_closed:
            self._session.forget_channel(self)

    def _link_over(self) -> None:
        self._link = self._fresh = None
        self._publisher.link_lost()
        self._forget_deliveries()

    def gave_up(self, failure: Exception) -> None:
        """There is no broker, for everybody who waits now."""
        self._publisher.gave_up(failure)
