"""stomp.py over STOMP 1.2: one connection, a listener that sorts by subscription."""

from __future__ import annotations

import itertools
import queue as queues
from collections.abc import Callable, Mapping
from typing import Any, Literal

from stomp import ConnectionListener
from stomp.exception import StompException

from understudy.core.events import Event
from understudy.stomp import Connection, TransactionRolledBack
from understudy.testing.scenarios.port import Client, Delivery, Handler

__all__ = ["StompDriver"]

Kind = Literal["rabbitmq", "activemq"]

PREFETCH = {"rabbitmq": "prefetch-count", "activemq": "activemq.prefetchSize"}


class StompDriver:
    protocol: Literal["amqp", "stomp"] = "stomp"
    library_errors: tuple[type[Exception], ...] = (StompException,)

    def __init__(self, broker: Kind) -> None:
        self.broker: Kind = broker
        self.name = f"stomp-{broker}"

    def open(self, uri: str, on_event: Callable[[Event], object]) -> Client:
        return StompClient(uri, on_event, self.broker)


class StompDelivery:
    def __init__(self, connection: Any, frame: Any, transaction: str | None = None) -> None:
        self.body = str(frame.body)
        self.is_redelivered = frame.headers.get("redelivered") == "true"
        self._connection = connection
        self._id = frame.headers["ack"]
        self._transaction = transaction

    def ack(self) -> None:
        self._connection.ack(self._id, transaction=self._transaction)


class StompClient:
    def __init__(self, uri: str, on_event: Callable[[Event], object], broker: Kind) -> None:
        self._broker = broker
        self._numbers = itertools.count(1)
        self._sorter = Sorter()
        self._connection = Connection(uri, on_event=on_event)
        self._connection.set_listener("scenario", self._sorter)
        self._connection.connect(wait=True)

    def send(self, queue: str, body: str, headers: Mapping[str, str] | None = None) -> None:
        self._connection.send(f"/queue/{queue}", body, headers={**PERSISTENT, **(headers or {})})

    def send_topic(self, topic: str, body: str) -> None:
        self._connection.send(f"/topic/{topic}", body, headers=PERSISTENT)

    def flush(self, seconds: float) -> bool:
        return bool(self._connection.flush(seconds))

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 10) -> StompConsumer:
        return self.subscribe(
            queue, lambda frame: handler(StompDelivery(self._connection, frame)), prefetch
        )

    def subscribe(
        self, queue: str, on_frame: Callable[[Any], object], prefetch: int
    ) -> StompConsumer:
        subscription = str(next(self._numbers))
        self._sorter.handlers[subscription] = on_frame
        self._connection.subscribe(
            f"/queue/{queue}",
            id=subscription,
            ack="client-individual",
            headers={PREFETCH[self._broker]: str(prefetch)},
        )
        return StompConsumer(self._connection, subscription)

    def subscribe_wrongly(self, queue: str) -> None:
        """RabbitMQ: a queue that does not exist. ActiveMQ makes it; a bad selector it refuses."""
        prefix = "/amq/queue/" if self._broker == "rabbitmq" else "/queue/"
        headers = {"selector": "no ( selector"}
        self._connection.subscribe(
            f"{prefix}{queue}", id="wrong", ack="client-individual", headers=headers
        )

    def transaction(self) -> StompTransaction:
        return StompTransaction(self, self._connection)

    def close(self) -> None:
        self._connection.disconnect()


PERSISTENT = {"persistent": "true"}


class Sorter(ConnectionListener):
    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any], object]] = {}

    def on_message(self, frame: Any) -> None:
        self.handlers[frame.headers["subscription"]](frame)


class StompConsumer:
    def __init__(self, connection: Any, subscription: str) -> None:
        self._connection = connection
        self._subscription = subscription

    def stop(self) -> None:
        self._connection.unsubscribe(self._subscription)


class StompTransaction:
    """One open transaction; the first one begins with the first command."""

    def __init__(self, client: StompClient, connection: Any) -> None:
        self._client = client
        self._connection = connection
        self._frames: queues.Queue[Any] = queues.Queue()
        self._subscribed: set[str] = set()
        self._name: str | None = None
        self._held: list[tuple[object, Any]] = []  # frames acknowledged in it, and their link
        self._again: list[Any] = []  # those of one that was rolled back

    def _open(self) -> str:
        if self._name is None:
            self._name = self._connection.begin()
        assert self._name is not None
        return self._name

    def send(self, queue: str, body: str) -> None:
        self._connection.send(
            f"/queue/{queue}", body, headers={**PERSISTENT, "transaction": self._open()}
        )

    def take(self, queue: str, count: int) -> list[Delivery]:
        """With a prefetch of ``count``, so that no buffer of ours outlives the link."""
        if queue not in self._subscribed:
            self._subscribed.add(queue)
            self._client.subscribe(queue, self._frames.put, count)
        taken: list[Delivery] = []
        while len(taken) < count:
            frame = self._again.pop(0) if self._again else self._frames.get(timeout=60)
            delivery = StompDelivery(self._connection, frame, self._open())
            stale = self._connection.stale_acks
            delivery.ack()
            if self._connection.stale_acks == stale:
                self._held.append((self._link, frame))
            taken.append(delivery)
        return taken

    @property
    def _link(self) -> object:
        return self._connection.transport.session.link

    def _take_again(self) -> None:
        """A broker delivers nothing again on the same connection; on another one it does."""
        self._again += [frame for link, frame in self._held if link is self._link]
        self._held = []

    def commit(self) -> None:
        name, self._name = self._open(), None
        try:
            self._connection.commit(name)
        except TransactionRolledBack:
            self._take_again()
            raise
        self._held = []

    def rollback(self) -> None:
        name, self._name = self._open(), None
        self._connection.abort(name)
        self._take_again()
