"""pika's BlockingConnection over AMQP: a channel to send, and one for each consumer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pika import BasicProperties, exceptions

from understudy.core.events import Event
from understudy.pika import BlockingConnection
from understudy.testing.scenarios.port import Client, Delivery, Handler

__all__ = ["PikaDriver"]

PERSISTENT = BasicProperties(delivery_mode=2)


class PikaDriver:
    name = "pika"
    protocol: Literal["amqp", "stomp"] = "amqp"
    broker: Literal["rabbitmq", "activemq"] = "rabbitmq"
    library_errors: tuple[type[Exception], ...] = (exceptions.AMQPError,)

    def open(self, uri: str, on_event: Callable[[Event], object]) -> Client:
        return PikaClient(BlockingConnection(uri, on_event=on_event))


class PikaDelivery:
    def __init__(self, body: bytes, redelivered: bool, ack: Callable[[], object]) -> None:
        self.body = body.decode()
        self.is_redelivered = redelivered
        self._ack = ack

    def ack(self) -> None:
        self._ack()


class PikaClient:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sending = connection.channel()
        self._sending.confirm_delivery()
        self._consumers: list[PikaConsumer] = []

    def send(self, queue: str, body: str, headers: Mapping[str, str] | None = None) -> None:
        publish(self._sending, queue, body, headers)

    def send_topic(self, topic: str, body: str) -> None:
        self._sending.basic_publish("amq.topic", topic, body.encode(), PERSISTENT)

    def flush(self, seconds: float) -> bool:
        return bool(self._connection.flush(seconds))

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 10) -> PikaConsumer:
        consumer = PikaConsumer(self._connection, queue, handler, prefetch)
        self._consumers.append(consumer)
        return consumer

    def subscribe_wrongly(self, queue: str) -> None:
        self._connection.channel().basic_consume(queue, lambda *_: None)

    def pull(self, queue: str, seconds: float) -> Delivery | None:
        channel = self._connection.channel()
        for method, _, body in channel.consume(queue, inactivity_timeout=seconds):
            if method is None:
                return None
            channel.basic_ack(method.delivery_tag)
            channel.cancel()
            return PikaDelivery(body, method.redelivered, lambda: None)
        return None

    def transaction(self) -> PikaTransaction:
        return PikaTransaction(self._connection.channel())

    def close(self) -> None:
        for consumer in self._consumers:
            consumer.stop()
        if self._connection.is_open:
            self._connection.close()


class PikaConsumer:
    """start_consuming() in a thread of its own; other threads reach it by callbacks."""

    def __init__(self, connection: Any, queue: str, handler: Handler, prefetch: int) -> None:
        self._connection = connection
        self._handler = handler
        self._is_stopped = False
        self._channel = connection.channel()
        self._channel.basic_qos(prefetch_count=prefetch)
        self._channel.basic_consume(queue, self._handle)
        self._thread = threading.Thread(target=self._run, name="pika-consumer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(exceptions.AMQPConnectionError):  # reconnecting was given up
            self._channel.start_consuming()

    def _handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        def ack() -> None:
            if threading.current_thread() is self._thread:
                channel.basic_ack(method.delivery_tag)
            else:
                self._connection.add_callback_threadsafe(
                    lambda: channel.basic_ack(method.delivery_tag)
                )

        self._handler(PikaDelivery(body, method.redelivered, ack))

    def stop(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._connection.add_callback_threadsafe(self._channel.stop_consuming)
            self._thread.join(60)
            self._channel.close()


class PikaTransaction:
    def __init__(self, channel: Any) -> None:
        self._channel = channel
        channel.tx_select()

    def send(self, queue: str, body: str) -> None:
        publish(self._channel, queue, body)

    def take(self, queue: str, count: int) -> list[Delivery]:
        taken: list[Delivery] = []
        end = time.monotonic() + 60
        while len(taken) < count and time.monotonic() < end:
            method, _, body = self._channel.basic_get(queue)
            if method is None:
                time.sleep(0.01)
                continue
            self._channel.basic_ack(method.delivery_tag)
            taken.append(PikaDelivery(body, method.redelivered, lambda: None))
        return taken

    def commit(self) -> None:
        self._channel.tx_commit()

    def rollback(self) -> None:
        self._channel.tx_rollback()


def publish(channel: Any, queue: str, body: str, headers: Mapping[str, str] | None = None) -> None:
    properties = PERSISTENT
    if headers:
        properties = BasicProperties(delivery_mode=2, headers=dict(headers))
    channel.basic_publish("", queue, body.encode(), properties)
