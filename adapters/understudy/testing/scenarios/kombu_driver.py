"""kombu over AMQP: Producer, ConsumerMixin and SimpleQueue, as kombu's documentation has them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any, Literal

import amqp
import kombu
from kombu.exceptions import OperationalError
from kombu.mixins import ConsumerMixin
from kombu.utils.limits import TokenBucket

import understudy.kombu
from understudy.core.events import Event
from understudy.testing.scenarios.port import Client, Delivery, Handler

__all__ = ["KombuDriver"]

understudy.kombu.register()
logger = logging.getLogger(__name__)


class KombuDriver:
    name = "kombu"
    protocol: Literal["amqp", "stomp"] = "amqp"
    broker: Literal["rabbitmq", "activemq"] = "rabbitmq"
    library_errors: tuple[type[Exception], ...] = (OperationalError, amqp.AMQPError)

    def open(self, uri: str, on_event: Callable[[Event], object]) -> Client:
        return KombuClient(uri, on_event)


class KombuDelivery:
    def __init__(self, message: kombu.Message) -> None:
        self._message = message
        body = message.body
        self.body = body.decode() if isinstance(body, bytes) else str(body)

    @property
    def is_redelivered(self) -> bool:
        return bool(self._message.delivery_info.get("redelivered"))

    def ack(self) -> None:
        """As Celery does: a loss is logged here, and told to ConsumerMixin by its next read."""
        errors = self._message.channel.connection.client.connection_errors
        self._message.ack_log_error(logger, errors)


class KombuClient:
    def __init__(self, uri: str, on_event: Callable[[Event], object]) -> None:
        options = {"understudy": {"on_event": on_event}}
        self._connection = kombu.Connection(uri, transport_options=options)
        self._own = threading.local()  # channels are not for several threads
        self._clones: list[kombu.Connection] = []
        self._consumers: list[KombuConsumer] = []
        self._connection.connect()
        self._own.connection = self._connection

    def _producer(self) -> kombu.Producer:
        own = self._own
        if not hasattr(own, "producer"):
            if not hasattr(own, "connection"):
                own.connection = self._connection.clone()
                self._clones.append(own.connection)
            own.producer = kombu.Producer(own.connection)
        producer: kombu.Producer = own.producer
        return producer

    def send(self, queue: str, body: str, headers: Mapping[str, str] | None = None) -> None:
        self._producer().publish(
            body, routing_key=queue, serializer="raw", headers=dict(headers or {}), retry=False
        )

    def flush(self, seconds: float) -> bool:
        return understudy.kombu.flush(seconds)

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 10) -> KombuConsumer:
        consumer = KombuConsumer(self._connection.clone(), queue, handler, prefetch)
        self._consumers.append(consumer)
        consumer.start()
        return consumer

    def subscribe_wrongly(self, queue: str) -> None:
        channel = self._connection.channel()
        kombu.Consumer(channel, [kombu.Queue(queue, no_declare=True)]).consume()

    def pull(self, queue: str, seconds: float) -> Delivery | None:
        """SimpleQueue raises the loss; the next get() has a new connection."""
        end = time.monotonic() + seconds
        with self._connection.clone() as connection:
            while True:
                try:
                    message = connection.SimpleQueue(queue).get(timeout=end - time.monotonic())
                except connection.connection_errors:
                    connection.ensure_connection(timeout=end - time.monotonic())
                except Empty:
                    return None
                else:
                    message.ack()
                    return KombuDelivery(message)

    def close(self) -> None:
        for consumer in self._consumers:
            consumer.stop()
        for connection in [*self._clones, self._connection]:
            connection.close()


class KombuConsumer(ConsumerMixin):
    restart_limit = TokenBucket(100)  # kombu's own lets a consumer begin anew once a second

    def __init__(
        self, connection: kombu.Connection, queue: str, handler: Handler, prefetch: int
    ) -> None:
        self.connection = connection
        self._current: kombu.Connection | None = None
        self._queue = kombu.Queue(queue)
        self._handler = handler
        self._prefetch = prefetch
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kombu-consumer", daemon=True)

    def _run(self) -> None:
        with contextlib.suppress(OperationalError):  # closed while it waited for a broker
            self.run(safety_interval=0.05)

    def start(self) -> None:
        self._thread.start()
        assert self._is_ready.wait(60), "the consumer does not begin"

    def create_connection(self) -> kombu.Connection:
        self._current = super().create_connection()
        return self._current

    def get_consumers(self, consumer: Any, channel: Any) -> Any:
        return [consumer(self._queue, on_message=self._handle, prefetch_count=self._prefetch)]

    def on_consume_ready(self, *args: Any, **kwargs: Any) -> None:
        self._is_ready.set()

    def _handle(self, message: kombu.Message) -> None:
        self._handler(KombuDelivery(message))

    def stop(self) -> None:
        self.should_stop = True
        self._thread.join(1)
        if self._thread.is_alive() and self._current is not None:
            self._current.close()  # it waits for a broker
        self._thread.join(60)
