"""Sources that read the replies of responders: many queues of ours on one connection.

Rules
* On RabbitMQ a reply's queue is durable and expires when nobody has read it for the book's ``ttl``,
  so that it outlives a connection and goes when the bridge does not come back. It is not deleted:
  another process of the same bridge may read it (if-unused would end the channel over that). On
  ActiveMQ, where nobody could remove a queue, it is a temporary one, and goes with our connection,
  not before: what comes late is read, so that it does not pile up. A connection with too many of
  these is `is_worn`. On Artemis it is one that the broker makes and removes by itself.
* When the source is opened all requesters of the book get their queues again.
* Each reply is acknowledged by itself: over STOMP an acknowledgement for all before it would be one
  for those of its own queue. RabbitMQ ends the connection over one for a subscription that is no
  more: what is not acknowledged by then goes with its queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from understudy.wire.stomp import RawFrame, encode
from understudyd.bridge.addresses import send_headers
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import Dialect, StompFacts
from understudyd.bridge.ends.amqp import DURABLE, NO_FLAGS, AmqpSource
from understudyd.bridge.ends.connection import Connection
from understudyd.bridge.ends.endpoints import Dialer, StompDialer
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks, StompDelivery
from understudyd.bridge.ends.stomp_connection import StompConnection
from understudyd.bridge.ends.stomp_source import WINDOW_SIZE, StompSource
from understudyd.bridge.names import QUEUE, Destination, Pattern
from understudyd.bridge.replies import ReplyBook, Requester
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.methods import Method, encode_method
from understudyd.bridge.wire.reader import Delivery

__all__ = ["AmqpReplySource", "StompReplySource"]

WINDOW = 100  # replies of one requester that are not acknowledged
WORN = 500  # temporary queues whose requesters are gone

_CLOSED = "the connection for replies is closed"


class AmqpReplySource(AmqpSource):
    """On RabbitMQ over AMQP."""

    def __init__(
        self, dialer: Dialer, tag: str, hooks: SourceHooks[Delivery], book: ReplyBook
    ) -> None:
        super().__init__(dialer, "", tag, hooks)
        self._book = book

    async def _begin(self, connection: Connection, window: int) -> None:
        qos = encode_method(Method.BASIC_QOS, 0, WINDOW, NO_FLAGS)
        await connection.call(qos, Method.BASIC_QOS_OK)
        self._connection = connection  # deliveries may come before the last answer does
        await asyncio.gather(*[self._attend(connection, requester) for requester in self._book])

    async def serve(self, requester: Requester) -> None:
        """Make its queue and read it; raises ConnectionFailed."""
        if self._connection is None:
            raise ConnectionFailed(_CLOSED)
        await self._attend(self._connection, requester)

    async def _attend(self, connection: Connection, requester: Requester) -> None:
        name = requester.name
        kept = {"x-expires": _milliseconds(self._book.ttl)}
        declare = encode_method(Method.QUEUE_DECLARE, 0, name, DURABLE, kept)
        await connection.call(declare, Method.QUEUE_DECLARE_OK)
        stop = encode_method(Method.BASIC_CANCEL, name, 1)  # one that was not waited for
        consume = encode_method(Method.BASIC_CONSUME, 0, name, name, NO_FLAGS, {})
        await connection.call(stop + consume, Method.BASIC_CONSUME_OK)
        requester.address = name

    def release(self, requester: Requester) -> None:
        """Nobody waits there any more."""
        if self._connection is not None:
            self._connection.write(encode_method(Method.BASIC_CANCEL, requester.name, 1))

    async def ready(self) -> int:
        """-1: they are many."""
        return -1

    def widen(self, window: int) -> None:
        """Each queue has its window."""

    def _cancelled(self, consumer: str) -> None:
        self._book.forget(consumer)  # somebody has deleted the queue of this name


class StompReplySource(StompSource):
    """On a broker of STOMP."""

    def __init__(
        self,
        dialer: StompDialer,
        pattern: Pattern,
        hooks: SourceHooks[StompDelivery],
        book: ReplyBook,
    ) -> None:
        super().__init__(dialer, pattern, hooks, prefetch=WINDOW)
        self._book = book
        self._subscribed: dict[str, int] = {}  # by which subscription a queue is read
        self._made: dict[str, int] = {}  # the numbers of temporary queues of this connection
        self._live: set[str] = set()  # subscriptions
        self._origins: dict[str, str] = {}  # of what is not acknowledged: its subscription
        self._is_retired = False

    async def _begin(self, connection: StompConnection) -> None:
        self._subscribed, self._made = {}, {}
        self._live, self._origins = set(), {}
        try:
            await asyncio.gather(*[self._attend(connection, one) for one in self._book])
        except ConnectionFailed:
            self._forget_addresses()
            raise

    async def serve(self, requester: Requester) -> None:
        """Make its queue and read it; raises ConnectionFailed."""
        if self._connection is None:
            raise ConnectionFailed(_CLOSED)
        await self._attend(self._connection, requester)

    async def _attend(self, connection: StompConnection, requester: Requester) -> None:
        facts = connection.dialect.stomp
        assert facts is not None
        if facts.temporary:
            requester.address = await self._take_temporary(connection, facts, requester.name)
        else:
            where = _kept(requester.name, connection.dialect, self._book.ttl)
            self._subscribed[requester.name] = await self._subscribe_to(connection, where)
            requester.address = requester.name

    async def _take_temporary(
        self, connection: StompConnection, facts: StompFacts, name: str
    ) -> str:
        """The address of a queue, made where it is not; the broker counts those of a connection,
        whose name is that of the session."""
        if (place := self._made.get(name)) is None:
            place = self._made[name] = len(self._made) + 1
            await self._subscribe_to(connection, {"destination": facts.temporary + name})
        return f"{facts.prefixes['temp-queue']}{connection.session}:{place}"

    async def _subscribe_to(self, connection: StompConnection, where: dict[str, str]) -> int:
        """The number of the subscription."""
        self._subscriptions += 1
        number = self._subscriptions
        self._live.add(str(number))
        told = {"id": str(number), "ack": "client-individual", **where}
        await connection.call("SUBSCRIBE", {**told, **_window(connection.dialect)})
        return number

    @property
    def is_worn(self) -> bool:
        """Whether another connection should be begun, and this one ended some time."""
        return len(self._made) - len(self._book) > WORN

    def retire(self) -> None:
        """Read what there is, for as long as the connection lasts; the addresses are another's."""
        self._is_retired = True

    def release(self, requester: Requester) -> None:
        """Nobody waits there any more."""
        number = self._subscribed.pop(requester.name, None)
        if self._connection is not None and number is not None:
            self._live.discard(str(number))
            self._connection.write(encode("UNSUBSCRIBE", {"id": str(number)}))

    def widen(self, window: int) -> None:
        """Each queue has its window."""

    def _came(self, frames: list[RawFrame]) -> None:
        for frame in frames:
            headers = frame.headers
            if frame.command == "MESSAGE" and "ack" in headers:
                self._origins[headers["ack"]] = headers.get("subscription", "")
        super()._came(frames)

    def _settle(self, connection: StompConnection, settled: list[str]) -> None:
        kept = [each for each in settled if self._origins.pop(each, "") in self._live]
        if kept:
            connection.write(b"".join([encode("ACK", {"id": each}) for each in kept]))

    def close(self) -> Awaitable[None]:
        self._forget_addresses()
        return super().close()

    def _lost(self, reason: str, closed: Closed | None = None) -> None:
        self._forget_addresses()
        super()._lost(reason, closed)

    def _forget_addresses(self) -> None:
        """Temporary queues are gone with the connection."""
        facts = self.dialect.stomp if self.dialect is not None else None
        if facts is not None and facts.temporary and not self._is_retired:
            for requester in self._book:
                requester.address = ""


def _kept(name: str, dialect: Dialect, ttl: float) -> dict[str, str]:
    """What says of a SUBSCRIBE that it is to make a queue that stays for a while."""
    try:
        headers = send_headers(Destination(QUEUE, name), dialect, makes=True)
    except Untranslatable as error:
        raise ConnectionFailed(error.reason) from error
    headers = {"destination": headers["destination"]}
    facts, expires = dialect.stomp, dialect.subscribing.expires
    if facts is not None and (beside := facts.subscribed_beside.get(QUEUE)):
        headers[beside[0]] = beside[1]
    if expires:
        headers |= {"durable": "true", "auto-delete": "false", expires: str(_milliseconds(ttl))}
    return headers


def _window(dialect: Dialect) -> dict[str, str]:
    how = dialect.subscribing
    return {how.prefetch: str(WINDOW_SIZE if how.prefetch_is_bytes else WINDOW)}


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
