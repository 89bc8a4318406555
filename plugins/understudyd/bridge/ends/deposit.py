"""What puts messages into queues of a source's broker: those that are parked there, and those that
go back to the tail of their queue.

Rules
* It has a connection of its own, since a broker in an alarm blocks those that publish, and the
  source's must go on acknowledging. The connection stays for `IDLE_TIME` after the last message.
* One message at a time, done when it is confirmed; one that comes back, is refused or is not
  answered within `TIMEOUT` ends the connection, and the next makes another. Whoever comes while
  something is under way waits for it.
* Over AMQP the parking queue is made when the first message for it comes, and what is told of a
  message fits into the frames of the broker, which are known then (`parking`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from understudyd.bridge.ends.amqp import AmqpTarget
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.ends.port import ConnectionFailed, TargetEnd, TargetHooks
from understudyd.bridge.ends.stream import within
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.parcels import PROPERTIES
from understudyd.bridge.parking import HEAD, fit
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.reader import Confirm, Returned

__all__ = ["AmqpDeposit", "Deposit"]

TIMEOUT = 30.0  # s
IDLE_TIME = 5.0  # s
TOLERATED = 8  # bytes by which RabbitMQ lets a frame be larger than was agreed on


class Deposit:
    """Made once for a link; opened when it is needed."""

    def __init__(self, make: Callable[[TargetHooks], TargetEnd]) -> None:
        self._target = make(
            TargetHooks(
                on_confirms=self._confirmed,
                on_returned=self._returned,
                on_blocked=lambda _: None,
                on_congested=lambda _: None,
                on_lost=lambda reason, _: self._answer(reason),
            )
        )
        self._is_open = False
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[str] | None = None  # for why not; empty: it was confirmed
        self._leaving: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None  # kept, since the loop does not

    async def open(self) -> None:
        """Connect where that has not been done; raises ConnectionFailed."""
        async with self._turn:
            await self._open()

    async def put(self, parcel: Parcel) -> None:
        """Publish a message to where its first piece says; raises ConnectionFailed."""
        async with self._turn:
            self._cancel_leaving()
            try:
                await self._open()
                await within(TIMEOUT, self._prepare(parcel))
                await within(TIMEOUT, self._publish(parcel))
            except TimeoutError:
                await self._close()
                raise ConnectionFailed(f"no confirm within {TIMEOUT:g} s") from None
            except BaseException:
                await self._close()
                raise
            self._leaving = asyncio.get_running_loop().call_later(IDLE_TIME, self._leave)

    async def close(self) -> None:
        """End the connection, if there is one."""
        async with self._turn:
            await self._close()

    async def _open(self) -> None:
        if not self._is_open:
            await self._target.open()
            self._is_open = True

    async def _close(self) -> None:
        self._cancel_leaving()
        if self._is_open:
            self._is_open = False
            await self._target.close()

    async def _prepare(self, parcel: Parcel) -> None:
        """What is to be done before this one is published."""

    async def _publish(self, parcel: Parcel) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        self._target.send(list(parcel[:3]))
        try:
            problem = await self._waiting
        finally:
            self._waiting = None
        if problem:
            raise ConnectionFailed(problem)

    def _confirmed(self, confirms: list[Confirm]) -> None:
        self._answer("" if confirms[0][2] else "the queue refuses it")

    def _returned(self, message: Returned) -> None:
        self._answer(f"{message.code} {message.text}: {message.routing_key}")

    def _answer(self, problem: str) -> None:
        if self._waiting is None:
            self._is_open = self._is_open and not problem
        elif not self._waiting.done():
            self._waiting.set_result(problem)

    def _cancel_leaving(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _leave(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self.close())


class AmqpDeposit(Deposit):
    """The same over AMQP."""

    def __init__(self, dialer: Dialer, parking: str) -> None:
        self._publisher: AmqpTarget
        super().__init__(lambda hooks: self._made(AmqpTarget(dialer, "", hooks)))
        self._parking = parking
        self._to_parking = encode_publish("", parking)

    def _made(self, publisher: AmqpTarget) -> TargetEnd:
        self._publisher = publisher
        return publisher

    async def _prepare(self, parcel: Parcel) -> None:
        if parcel[0] == self._to_parking:
            await self._publisher.declare(self._parking)

    async def _publish(self, parcel: Parcel) -> None:
        publish, header, frames, size = parcel
        room = self._publisher.frame_max - HEAD
        properties = fit(header[PROPERTIES], room)
        if len(properties) > room + TOLERATED:
            raise ConnectionFailed(f"its properties have {len(properties)} bytes; {room} fit there")
        await super()._publish((publish, content_header(properties, size), frames, size))
