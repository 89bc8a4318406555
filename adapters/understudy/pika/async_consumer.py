"""What an `AsyncChannel` receives: messages, and the consumers that iterate over them."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pika import exceptions, spec

if TYPE_CHECKING:
    from understudy.pika.async_receiving import AsyncReceiving

__all__ = ["Consumer", "Message"]


class Message:
    """A message that was received; ``method`` and ``properties`` are pika's."""

    __slots__ = ("_channel", "body", "method", "properties")

    def __init__(self, channel: AsyncReceiving, method: Any, properties: Any, body: bytes) -> None:
        self._channel = channel
        self.method = method
        self.properties = properties
        self.body = body

    def __repr__(self) -> str:
        return f"<Message {self.delivery_tag} of {len(self.body)} bytes>"

    @property
    def delivery_tag(self) -> int:
        """Rises over all connections."""
        tag: int = self.method.delivery_tag
        return tag

    @property
    def is_redelivered(self) -> bool:
        return bool(self.method.redelivered)

    async def ack(self) -> None:
        """It was processed. After a failover dropped and counted: the message comes again."""
        await self._channel.basic_ack(self.delivery_tag)

    async def nack(self, *, requeue: bool = True) -> None:
        """It was not processed; back into the queue, or to the dead-letter exchange."""
        await self._channel.basic_nack(self.delivery_tag, requeue=requeue)

    async def reject(self, *, requeue: bool = True) -> None:
        """As `nack`, in the words of AMQP."""
        await self._channel.basic_reject(self.delivery_tag, requeue=requeue)


class Consumer:
    """Messages of a queue as they come, over failovers; what `AsyncChannel.consume` returns.

    ```python
    async with channel.consume("orders") as messages:
        async for message in messages:
            await message.ack()
    ```
    It begins with the ``async with``, or with the first message that is asked for. Leaving the
    block, or `cancel`, ends it; leaving only the loop does not. Ends with pika's ConsumerCancelled
    when the broker cancels it (the queue was deleted), with ChannelClosedByBroker when it cannot
    be restored.
    """

    def __init__(self, channel: AsyncReceiving, tag: str, consume: Any) -> None:
        self._channel = channel
        self._messages: deque[Message] = deque()
        self._error: Exception | None = None
        self._has_begun = False
        self.consumer_tag = tag
        self.consume = consume  # pika's method
        self.qos: Any = None  # under which it began
        self.is_active = False  # the broker knows it, and it is restored
        self.has_consumed = False  # it was active at least once
        self.is_over = False

    def __repr__(self) -> str:
        state = "over" if self.is_over else "active" if self.is_active else "new"
        return f"<Consumer {self.consumer_tag} of {self.consume.queue!r}, {state}>"

    @property
    def auto_ack(self) -> bool:
        return bool(self.consume.no_ack)

    async def __aenter__(self) -> Consumer:
        await self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.cancel()

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Message:
        await self._begin()
        if not self._messages:
            await self._channel.wait_for(lambda: bool(self._messages) or self.is_over)
        if self._messages:
            message = self._messages.popleft()
            self._channel.taken(message)
            return message
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            try:
                await self._channel.begin_consumer(self)
            except BaseException:
                self._has_begun = False
                raise

    async def cancel(self) -> None:
        """End it; what nobody has taken goes back into the queue. Without a broker at once.

        With ``auto_ack`` that is gone from the queue, and iterating goes on until it is taken.
        """
        if self._has_begun and not self.is_over:
            await self._channel.cancel_consumer(self)

    # --- for the channel ------------------------------------------------------------------------

    def prepare(self, qos: Any) -> None:
        """It is about to begin, perhaps again."""
        self.qos = qos
        self.is_over = False

    def activate(self) -> None:
        """The broker knows it."""
        self.is_active = self.has_consumed = True

    def receive(self, message: Message) -> None:
        self._messages.append(message)

    def forget(self, tags: set[int]) -> None:
        """These come again."""
        left = [message for message in self._messages if message.delivery_tag not in tags]
        self._messages = deque(left)

    def link_lost(self) -> None:
        """What has to be acknowledged comes again."""
        if not self.auto_ack:
            self._messages.clear()

    def end(self, error: Exception | None) -> list[Message]:
        """No more messages. Returns those that go back into the queue.

        The others that have come are still given out: before an ``error``, and what was
        acknowledged automatically.
        """
        self.is_over = True
        self.is_active = False
        self._error = error
        if error is not None or self.auto_ack:
            return []
        left = list(self._messages)
        self._messages.clear()
        return left

    def cancelled_by_broker(self) -> None:
        self.end(exceptions.ConsumerCancelled(spec.Basic.Cancel(self.consumer_tag)))
