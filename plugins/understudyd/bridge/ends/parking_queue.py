"""A queue whose messages are looked at, or taken one by one, over AMQP."""

from __future__ import annotations

import asyncio

from understudyd.bridge.ends.connection import Connection, Hooks
from understudyd.bridge.ends.endpoints import FRAME_MAX, Dialer
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.methods import Method, encode_look, encode_method
from understudyd.bridge.wire.reader import Deliveries, Delivery, Event

__all__ = ["ParkingQueue"]

MULTIPLE, REQUEUE = 0b01, 0b10
NOT_FOUND = 404
PATIENCE = 3.0  # s for the next message


class ParkingQueue:
    """What is taken and not settled goes back when it is closed."""

    def __init__(self, dialer: Dialer, name: str) -> None:
        self._dialer = dialer
        self._name = name
        self._connection: Connection | None = None
        self._deliveries: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._reason = ""

    async def open(self, frame_max: int = FRAME_MAX) -> int | None:
        """How many messages there are; None: there is no such queue. Raises ConnectionFailed."""
        hooks = Hooks(self._came, self._lost)
        self._connection = await self._dialer.dial(hooks, frame_max)
        question = encode_look(self._name)
        try:
            answer = await self._connection.call(question, Method.QUEUE_DECLARE_OK)
        except ConnectionFailed as failed:
            if failed.closed is not None and failed.closed.code == NOT_FOUND:
                return None
            raise
        return int(answer[1])

    async def consume(self, window: int) -> None:
        """Have so many delivered at a time; raises ConnectionFailed."""
        assert self._connection is not None
        if window:
            qos = encode_method(Method.BASIC_QOS, 0, min(window, 65535), 0)
            await self._connection.call(qos, Method.BASIC_QOS_OK)
            consume = encode_method(Method.BASIC_CONSUME, 0, self._name, "parked", 0, {})
            await self._connection.call(consume, Method.BASIC_CONSUME_OK)

    async def take(self, count: int, patience: float = PATIENCE) -> list[Delivery]:
        """The next ones, fewer where none comes for ``patience`` seconds; raises
        ConnectionFailed."""
        taken: list[Delivery] = []
        while len(taken) < count:
            try:
                delivery = await asyncio.wait_for(self._deliveries.get(), patience)
            except asyncio.TimeoutError:
                break
            if delivery is None:
                raise ConnectionFailed(self._reason)
            taken.append(delivery)
        return taken

    def settle(self, tag: int) -> None:
        """This one alone is not needed any more."""
        assert self._connection is not None
        self._connection.write(encode_method(Method.BASIC_ACK, tag, 0))

    async def close(self) -> None:
        if self._connection is not None:
            nack = encode_method(Method.BASIC_NACK, 0, MULTIPLE | REQUEUE)
            self._connection.write(encode_method(Method.BASIC_CANCEL, "parked", 1) + nack)
            await self._connection.close()
            self._connection = None

    def _came(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Deliveries):
                for delivery in event.items:
                    self._deliveries.put_nowait(delivery)

    def _lost(self, reason: str, closed: Closed | None) -> None:
        self._reason = reason
        self._deliveries.put_nowait(None)
