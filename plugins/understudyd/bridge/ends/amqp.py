"""The two ends of a link that speak AMQP 0-9-1.

Rules
* Source and target have connections of their own: a blocked target must not stop acknowledgements.
* A source is read with ``basic.consume`` and a prefetch of its consumer, since quorum queues know
  no other. A consumer's prefetch is fixed, so to widen it the consumer is replaced by another; what
  the first one delivered stays valid. One is cancelled when it has been confirmed, not before:
  RabbitMQ 3.10 ends the channel over that (541, seen).
* What is given back is nacked before the connection ends: since RabbitMQ 4.3 a nack does not count
  as a delivery that failed, a connection that ended does.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from understudyd.bridge.dialects import RABBITMQ_AMQP, Dialect, of_amqp
from understudyd.bridge.ends.connection import Connection, Hooks
from understudyd.bridge.ends.endpoints import FRAME_MAX, Dialer
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks, TargetHooks
from understudyd.bridge.ends.stream import goodbye
from understudyd.bridge.settings import Reading
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.methods import Method, encode_look, encode_method
from understudyd.bridge.wire.reader import (
    Confirms,
    Deliveries,
    Delivery,
    Event,
    Returned,
    Told,
)
from understudyd.bridge.wire.tables import Table

__all__ = ["AmqpSource", "AmqpTarget", "Binding"]

DURABLE = 0b10  # of queue.declare
NO_FLAGS = 0


@dataclass(frozen=True)
class Binding:
    """A durable queue of ours that an exchange fills, also while no bridge runs."""

    exchange: str
    key: str


class AmqpSource:
    """A queue that is read."""

    def __init__(
        self,
        dialer: Dialer,
        queue: str,
        tag: str,
        hooks: SourceHooks[Delivery],
        *,
        binding: Binding | None = None,
        reading: Reading = Reading(),  # noqa: B008  (frozen)
    ) -> None:
        """``tag`` names our consumers. With a binding the queue is ours, and made and bound
        when it is missing."""
        self._dialer = dialer
        self._queue = queue
        self._binding = binding
        self._tag = tag
        self._hooks = hooks
        self._declared = _declared(reading)
        self._arguments = {} if binding else _consumed(reading)
        self._connection: Connection | None = None
        self._is_opening = False
        self._consumers = 0
        self._is_starting = False  # the last one has not been confirmed
        self._wanted: int | None = None  # what to do when it is: a window, or 0 for none
        self._deleted = f"the queue {queue!r} was deleted or is not available"
        self.dialect: Dialect | None = None

    async def open(self, window: int, frame_max: int) -> None:
        """Connect and consume with that prefetch; raises ConnectionFailed.

        ``frame_max`` is the target's: body frames go there as they come.
        """
        hooks = Hooks(self._came, self._lost)
        connection = await self._dialer.dial(hooks, frame_max)
        self.dialect = _dialect_of(connection)  # before anything is delivered
        self._is_opening = True
        try:
            await connection.set_up(self._begin(connection, window))
        except BaseException:
            self._connection = None
            raise
        finally:
            self._is_opening = False

    async def _begin(self, connection: Connection, window: int) -> None:
        if self._binding is not None:
            await self._subscribe(connection, self._binding)
        qos = encode_method(Method.BASIC_QOS, 0, window, NO_FLAGS)
        await connection.call(qos, Method.BASIC_QOS_OK)
        self._connection, self._wanted = connection, None  # deliveries may come before the answer
        await connection.call(self._consume(), Method.BASIC_CONSUME_OK)
        self._is_starting = False
        self._replace()  # where that was wanted over what came with the answer

    async def _subscribe(self, connection: Connection, wanted: Binding) -> None:
        await _declare(connection, self._queue, self._declared)
        bind = encode_method(
            Method.QUEUE_BIND, 0, self._queue, wanted.exchange, wanted.key, NO_FLAGS, {}
        )
        await connection.call(bind, Method.QUEUE_BIND_OK)

    def widen(self, window: int) -> None:
        """Consume with a larger prefetch."""
        self._wanted = window
        self._replace()

    def rest(self) -> None:
        """Deliver nothing more until it is widened; what has come is still to be acknowledged."""
        self._wanted = 0
        self._replace()

    def _replace(self) -> None:
        """The consumer by one with the window that is wanted, or by none."""
        if self._connection is None or self._is_starting or self._wanted is None:
            return
        window, self._wanted = self._wanted, None
        change = encode_method(Method.BASIC_CANCEL, self._consumer, 1)
        if window:
            change += encode_method(Method.BASIC_QOS, 0, window, NO_FLAGS) + self._consume()
        self._connection.write(change)

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that may come; 0 while it is closed."""
        return self._connection.frame_max if self._connection is not None else 0

    async def ready(self) -> int:
        """How many messages the queue has for anybody; raises ConnectionFailed."""
        if self._connection is None:
            raise ConnectionFailed("the source is closed")
        question = encode_look(self._queue)
        answer = await self._connection.call(question, Method.QUEUE_DECLARE_OK)
        return int(answer[1])

    def read(self, is_wanted: bool) -> None:
        """Whether to read from the connection."""
        if self._connection is not None:
            self._connection.read(is_wanted)

    def acknowledge(self, tag: int) -> None:
        """Everything up to this tag."""
        if self._connection is not None:
            self._connection.write(encode_method(Method.BASIC_ACK, tag, 1))

    def close(self) -> Awaitable[None]:
        """Give back what was not acknowledged, and end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.write(
                encode_method(Method.BASIC_CANCEL, self._consumer, 1)
                + encode_method(Method.BASIC_NACK, 0, 0b11)  # all of them, back to the queue
            )
        return goodbye(connection)

    @property
    def _consumer(self) -> str:
        return f"{self._tag}.{self._consumers}"

    def _consume(self) -> bytes:
        self._consumers += 1
        self._is_starting = True
        return encode_method(
            Method.BASIC_CONSUME, 0, self._queue, self._consumer, NO_FLAGS, self._arguments
        )

    def _came(self, events: list[Event]) -> None:
        for event in events:
            if self._connection is None:  # closed, perhaps over what it has told just now
                return
            if isinstance(event, Deliveries):
                self._hooks.on_deliveries(event.items)
            elif isinstance(event, Told) and event.method == Method.BASIC_CANCEL:
                self._cancelled(event.arguments[0])
            elif isinstance(event, Told) and event.method == Method.BASIC_CONSUME_OK:
                self._is_starting = False
                self._replace()

    def _lost(self, reason: str, closed: Closed | None) -> None:
        if self._connection is None:  # whoever opens it is told
            return
        self._connection = None
        if not self._is_opening:
            self._hooks.on_lost(reason)

    def _cancelled(self, consumer: str) -> None:
        """The broker ended our consumer: its queue was deleted, or failed."""
        if self._connection is not None and consumer == self._consumer:
            self._connection.fail(self._deleted)


class AmqpTarget:
    """Where messages are published."""

    def __init__(self, dialer: Dialer, parking: str, hooks: TargetHooks) -> None:
        """``parking`` is the queue for what cannot be delivered; it is made when it is missing.
        Empty: there is none."""
        self._dialer = dialer
        self._parking = parking
        self._hooks = hooks
        self._connection: Connection | None = None
        self.dialect: Dialect | None = None

    async def open(self) -> None:
        """Connect, with confirms and the parking queue; raises ConnectionFailed."""
        hooks = Hooks(self._came, self._lost, self._hooks.on_congested)
        connection = await self._dialer.dial(hooks)
        await connection.set_up(self._begin(connection))
        self._connection = connection
        self.dialect = _dialect_of(connection)

    async def _begin(self, connection: Connection) -> None:
        if self._parking:
            await _declare(connection, self._parking)
        select = encode_method(Method.CONFIRM_SELECT, NO_FLAGS)
        await connection.call(select, Method.CONFIRM_SELECT_OK)

    async def declare(self, queue: str) -> None:
        """Make a queue where it is missing; raises ConnectionFailed."""
        if self._connection is None:
            raise ConnectionFailed("the connection is closed")
        await _declare(self._connection, queue)

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that it takes."""
        return self._connection.frame_max if self._connection is not None else FRAME_MAX

    def send(self, pieces: list[bytes]) -> None:
        """Write publishes, in order."""
        if self._connection is not None:
            self._connection.send(pieces)

    def close(self) -> Awaitable[None]:
        """End in order; what was not confirmed is in doubt."""
        connection, self._connection = self._connection, None
        return goodbye(connection)

    def _lost(self, reason: str, closed: Closed | None) -> None:
        if self._connection is not None:  # else whoever opens it is told
            self._connection = None
            self._hooks.on_lost(reason, closed)

    def _came(self, events: list[Event]) -> None:
        for event in events:
            if self._connection is None:
                return
            if isinstance(event, Confirms):
                self._hooks.on_confirms(event.items)
            elif isinstance(event, Returned):
                self._hooks.on_returned(event)
            elif isinstance(event, Told):
                if event.method == Method.CONNECTION_BLOCKED:
                    self._hooks.on_blocked(event.arguments[0])
                elif event.method == Method.CONNECTION_UNBLOCKED:
                    self._hooks.on_blocked(None)


async def _declare(connection: Connection, queue: str, arguments: Table | None = None) -> None:
    declare = encode_method(Method.QUEUE_DECLARE, 0, queue, DURABLE, arguments or {})
    await connection.call(declare, Method.QUEUE_DECLARE_OK)


def _declared(reading: Reading) -> Table:
    """Arguments of a queue of ours."""
    expires = reading.durable_expires
    return {} if expires is None else {"x-expires": max(1, round(expires * 1000))}


def _consumed(reading: Reading) -> Table:
    """Arguments of a consumer beside those of others."""
    usual = RABBITMQ_AMQP.subscribing.priority
    if not reading.after_others or usual is None:
        return {}
    name, priority = usual
    return {name: priority if reading.priority is None else reading.priority}


def _dialect_of(connection: Connection) -> Dialect:
    version = connection.server.get("version")
    return of_amqp(version if isinstance(version, str) else "", connection.frame_max)
