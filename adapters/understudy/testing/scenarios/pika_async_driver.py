"""AsyncConnection over AMQP: an event loop in a thread of its own, as in an asyncio program."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from pika import BasicProperties, exceptions

from understudy.core.events import Event
from understudy.pika import AsyncConnection
from understudy.testing.scenarios.port import Client, Delivery, Handler

__all__ = ["PikaAsyncDriver"]

T = TypeVar("T")


class PikaAsyncDriver:
    name = "pika-async"
    protocol: Literal["amqp", "stomp"] = "amqp"
    broker: Literal["rabbitmq", "activemq"] = "rabbitmq"
    library_errors: tuple[type[Exception], ...] = (exceptions.AMQPError,)

    def open(self, uri: str, on_event: Callable[[Event], object]) -> Client:
        return AsyncClient(uri, on_event)


class Loop:
    """An event loop in a thread, that other threads call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asyncio", daemon=True)
        self._thread.start()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """An exception in this thread, a signal handler's say, cancels the work."""
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class AsyncDelivery:
    def __init__(self, loop: Loop, message: Any) -> None:
        self.body: str = message.body.decode()
        self.is_redelivered = bool(message.is_redelivered)
        self._loop = loop
        self._message = message

    def ack(self) -> None:
        self._loop.call(self._message.ack())


class AsyncClient:
    def __init__(self, uri: str, on_event: Callable[[Event], object]) -> None:
        self._connection = AsyncConnection(uri, on_event=on_event)
        self._consumers: list[AsyncConsumer] = []
        self._is_closed = False
        self._loop = Loop()
        try:
            self._loop.call(self._connection.connect())
            self._sending: Any = self._loop.call(self._connection.channel())
        except BaseException:
            self.close()
            raise

    def send(self, queue: str, body: str, headers: Mapping[str, str] | None = None) -> None:
        self._loop.call(publish(self._sending, queue, body, headers))

    def send_topic(self, topic: str, body: str) -> None:
        self._loop.call(self._sending.basic_publish("amq.topic", topic, body))

    def flush(self, seconds: float) -> bool:
        return self._loop.call(self._connection.flush(seconds))

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 10) -> AsyncConsumer:
        consumer = AsyncConsumer(self._loop, handler)
        self._loop.call(consumer.begin(self._connection, queue, prefetch))
        self._consumers.append(consumer)
        return consumer

    def subscribe_wrongly(self, queue: str) -> None:
        async def subscribe() -> None:
            channel = await self._connection.channel()
            async with channel.consume(queue):
                pass

        self._loop.call(subscribe())

    def pull(self, queue: str, seconds: float) -> Delivery | None:
        async def first() -> Delivery | None:
            channel = await self._connection.channel()
            async with channel, channel.consume(queue) as messages:
                try:
                    message = await asyncio.wait_for(anext(messages), seconds)
                except asyncio.TimeoutError:
                    return None
                await message.ack()
                return AsyncDelivery(self._loop, message)

        return self._loop.call(first())

    def transaction(self) -> AsyncTransaction:
        return AsyncTransaction(self._loop, self._connection)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            for consumer in self._consumers:
                consumer.stop()
            try:
                self._loop.call(self._connection.close())
            finally:
                self._loop.close()


class AsyncConsumer:
    """A task; the handler blocks, so it runs in a thread beside the loop."""

    def __init__(self, loop: Loop, handler: Handler) -> None:
        self._loop = loop
        self._handler = handler
        self._thread = ThreadPoolExecutor(1)
        self._messages: Any = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self, connection: AsyncConnection, queue: str, prefetch: int) -> None:
        channel: Any = await connection.channel()
        await channel.basic_qos(prefetch_count=prefetch)
        self._messages = channel.consume(queue)
        self._task = asyncio.create_task(self._run(channel))

    async def _run(self, channel: Any) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(exceptions.AMQPConnectionError):  # reconnecting was given up
            async with channel, self._messages:
                async for message in self._messages:
                    delivery = AsyncDelivery(self._loop, message)
                    await loop.run_in_executor(self._thread, self._handler, delivery)

    def stop(self) -> None:
        if self._task is not None:
            self._loop.call(self._end(self._task))
            self._task = None
            self._thread.shutdown()

    async def _end(self, task: asyncio.Task[None]) -> None:
        """The message in hand is finished."""
        await self._messages.cancel()
        await asyncio.wait_for(task, 60)


class AsyncTransaction:
    def __init__(self, loop: Loop, connection: AsyncConnection) -> None:
        self._loop = loop
        self._channel: Any = loop.call(connection.channel())
        loop.call(self._channel.tx_select())

    def send(self, queue: str, body: str) -> None:
        self._loop.call(publish(self._channel, queue, body))

    def take(self, queue: str, count: int) -> list[Delivery]:
        return self._loop.call(asyncio.wait_for(self._take(queue, count), 60))

    async def _take(self, queue: str, count: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while len(taken) < count:
            message = await self._channel.basic_get(queue)
            if message is None:
                await asyncio.sleep(0.01)
                continue
            await message.ack()
            taken.append(AsyncDelivery(self._loop, message))
        return taken

    def commit(self) -> None:
        self._loop.call(self._channel.tx_commit())

    def rollback(self) -> None:
        self._loop.call(self._channel.tx_rollback())


async def publish(
    channel: Any, queue: str, body: str, headers: Mapping[str, str] | None = None
) -> None:
    properties = BasicProperties(delivery_mode=2, headers=dict(headers) if headers else None)
    await channel.basic_publish("", queue, body.encode(), properties)
