"""What a scenario needs from an adapter: one `Driver` for each adapter and protocol.

Rules
* A driver is written as the adapter's users write their programs: no internals, no retry of its own
  but those that the host library's documentation teaches (kombu's ConsumerMixin, say).
* Sends may come from any thread, the handler of a consumer included.
* Queues are durable, messages persistent, acknowledgement is one by one and by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

from understudy.core.events import Event

__all__ = [
    "Client",
    "Consumer",
    "Delivery",
    "Driver",
    "Handler",
    "Pulling",
    "TopicSending",
    "Transacting",
    "Transaction",
]


class Delivery(Protocol):
    """A message in the hands of the application."""

    @property
    def body(self) -> str: ...

    @property
    def is_redelivered(self) -> bool:
        """What the broker says: it was delivered before."""

    def ack(self) -> None:
        """Acknowledge this one message; from any thread, at any time, without waiting."""


Handler = Callable[[Delivery], object]


class Consumer(Protocol):
    """A running subscription; survives failovers until stopped."""

    def stop(self) -> None:
        """Unsubscribe; what was not acknowledged goes back to the queue."""


class Client(Protocol):
    """A connected application."""

    def send(self, queue: str, body: str, headers: Mapping[str, str] | None = None) -> None:
        """Send; returns when the adapter says that it is sent. Raises what the adapter raises."""

    def flush(self, seconds: float) -> bool:
        """Wait until every tracked message is confirmed."""

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 10) -> Consumer:
        """Subscribe in the background; ``handler`` gets the deliveries one at a time."""

    def subscribe_wrongly(self, queue: str) -> None:
        """Ask for a subscription to something of that name that the broker refuses; raises."""

    def close(self) -> None: ...


@runtime_checkable
class Pulling(Protocol):
    """A client that can ask for one message."""

    def pull(self, queue: str, seconds: float) -> Delivery | None:
        """Wait for a message and return it; None when none came."""


class Transaction(Protocol):
    """One transaction after the other, on one channel or session."""

    def send(self, queue: str, body: str) -> None: ...

    def take(self, queue: str, count: int) -> list[Delivery]:
        """Receive that many and acknowledge them within the transaction."""

    def commit(self) -> None:
        """Raises TransactionRolledBack; the next transaction may begin then."""

    def rollback(self) -> None: ...


@runtime_checkable
class Transacting(Protocol):
    """A client that has transactions."""

    def transaction(self) -> Transaction: ...


@runtime_checkable
class TopicSending(Protocol):
    """A client that can send to topics, for fanout:."""

    def send_topic(self, topic: str, body: str) -> None:
        """Send to whoever subscribed; AMQP: to the topic exchange ``amq.topic``."""


class Driver(Protocol):
    """One adapter over one protocol against one kind of broker: a column of the table."""

    name: str
    protocol: Literal["amqp", "stomp"]
    broker: Literal["rabbitmq", "activemq"]
    library_errors: tuple[type[Exception], ...]  # what programs for the host library catch

    def open(self, uri: str, on_event: Callable[[Event], object]) -> Client:
        """Connect; raises what the adapter raises."""
