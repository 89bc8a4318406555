"""A source that speaks STOMP 1.2.

Rules
* It has a connection of its own: on RabbitMQ an acknowledgement stands for all that was delivered
  before it on the connection, elsewhere for all of its subscription; here both are the same.
* A delivery is given back by the end of the connection, never by NACK: on ActiveMQ and Artemis that
  takes the message away, and RabbitMQ would deliver it again at once. Only what ActiveMQ is to take
  away (`dead_letter`) gets one.
* A window is opened slowly only where a delivery that comes back counts (RabbitMQ). As a
  subscription cannot be changed, further ones are added: their windows add up.
"""

from __future__ import annotations

from collections.abc import Awaitable

from understudy.errors import ConfigurationError
from understudy.wire.stomp import RawFrame, encode
from understudyd.bridge.addresses import PLAIN, subscribe_headers
from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.endpoints import StompDialer
from understudyd.bridge.ends.port import (
    ConnectionFailed,
    SourceHooks,
    StompDelivery,
)
from understudyd.bridge.ends.stomp_connection import StompConnection, StompHooks
from understudyd.bridge.ends.stream import goodbye
from understudyd.bridge.names import Pattern
from understudyd.bridge.settings import Reading
from understudyd.bridge.wire.amqp import Closed

__all__ = ["StompSource"]

WINDOW_SIZE = 1 << 20  # bytes, where a broker counts these
SELECTOR_SEEN = 100  # characters of a selector; an ERROR that repeats it may be cut behind that
_GONE = ""  # instead of the id of a delivery that its broker took away


class StompSource:
    """A queue, or a durable subscription to topics, that is read."""

    frame_max = 0

    def __init__(
        self,
        dialer: StompDialer,
        pattern: Pattern,
        hooks: SourceHooks[StompDelivery],
        *,
        prefetch: int,
        durable: str = "",
        reading: Reading = PLAIN,
        keeping: str = "",
    ) -> None:
        """``prefetch`` is the window where it need not be opened slowly. ``durable`` names the
        subscription to a topic, and us: of one name one is connected. The others are those of
        `addresses.subscribe_headers`."""
        self._dialer = dialer
        self._pattern = pattern
        self._hooks = hooks
        self._prefetch = prefetch
        self._durable = durable
        self._reading = reading
        self._keeping = keeping
        self._connection: StompConnection | None = None
        self._is_opening = False
        self._subscriptions = 0
        self._window = 0  # of all of them
        self._ids: list[str] = []  # of what is not acknowledged, in order
        self._tag = 0  # the last one that was given
        self._early: list[RawFrame] = []  # what came before the subscription was confirmed
        self.dialect: Dialect | None = None

    async def open(self, window: int, frame_max: int) -> None:
        """Connect and subscribe; raises ConnectionFailed."""
        hooks = StompHooks(self._came, self._lost)
        connection = await self._dialer.dial(hooks, self._durable)
        self._subscriptions = self._tag = 0
        self._ids, self._early = [], []
        self.dialect = connection.dialect
        self._window = self._first_window(window)
        await connection.set_up(self._begin(connection))
        self._connection = connection
        if early := self._early:
            self._is_opening = True
            self._came(early)
            self._is_opening = False
        if self._connection is None:
            raise connection.failure

    async def _begin(self, connection: StompConnection) -> None:
        try:
            await connection.call("SUBSCRIBE", self._subscribe(self._window))
        except ConfigurationError as error:
            raise ConnectionFailed(str(error)) from error
        except ConnectionFailed as failed:
            asked = self._reading.selector
            if asked and asked[:SELECTOR_SEEN] in str(failed):
                why = f"{connection.dialect.name} refuses the selector {asked!r}"
                raise ConnectionFailed(f"{connection.endpoint}: {why}", failed.closed) from failed
            raise

    def _first_window(self, window: int) -> int:
        assert self.dialect is not None
        if self.dialect.subscribing.prefetch_is_bytes:
            return WINDOW_SIZE
        return window if self.dialect.counts_returns else self._prefetch

    def widen(self, window: int) -> None:
        """Let it deliver more, where its window does not have its final size."""
        if self._connection is None or self.dialect is None:
            return
        is_slow = self.dialect.counts_returns and not self.dialect.subscribing.prefetch_is_bytes
        if is_slow and window > self._window:
            more, self._window = window - self._window, window
            self._connection.write(encode("SUBSCRIBE", self._subscribe(more)))

    def _subscribe(self, window: int) -> dict[str, str]:
        assert self.dialect is not None
        self._subscriptions += 1
        headers = subscribe_headers(
            self._pattern,
            self.dialect,
            window=window,
            durable=self._durable,
            reading=self._reading,
            keeping=self._keeping,
        )
        return {"id": str(self._subscriptions), "ack": "client", **headers}

    async def ready(self) -> int:
        """-1: STOMP has no way to ask."""
        return -1

    def read(self, is_wanted: bool) -> None:
        """Whether to read from the connection."""
        if self._connection is not None:
            self._connection.read(is_wanted)

    def acknowledge(self, tag: int) -> None:
        """Everything up to this tag."""
        count = tag - self._tag + len(self._ids)
        if self._connection is not None and count > 0:
            settled = self._ids[:count]
            del self._ids[:count]
            while settled and settled[-1] == _GONE:
                settled.pop()
            if settled:
                self._settle(self._connection, settled)

    def _settle(self, connection: StompConnection, settled: list[str]) -> None:
        connection.write(encode("ACK", {"id": settled[-1]}))

    async def dead_letter(self, tag: int) -> None:
        """Let ActiveMQ move one delivery to its dead letter queue; raises ConnectionFailed."""
        place = tag - self._tag + len(self._ids) - 1
        if self._connection is None or place < 0:
            raise ConnectionFailed("the source is closed")
        known, self._ids[place] = self._ids[place], _GONE
        await self._connection.call("NACK", {"id": known})

    def close(self) -> Awaitable[None]:
        """End; what was not acknowledged goes back."""
        connection, self._connection = self._connection, None
        return goodbye(connection)

    def _came(self, frames: list[RawFrame]) -> None:
        if self._connection is None:
            self._early += frames
            return
        messages = [frame for frame in frames if frame.command == "MESSAGE"]
        if not messages:
            return
        try:
            self._ids += [frame.headers["ack"] for frame in messages]
        except KeyError:
            self._connection.fail("a message cannot be acknowledged: it has no header ack")
            return
        first, self._tag = self._tag + 1, self._tag + len(messages)
        self._hooks.on_deliveries(
            [
                (tag, StompContent(frame.headers, frame.body))
                for tag, frame in enumerate(messages, first)
            ]
        )

    def _lost(self, reason: str, closed: Closed | None = None) -> None:
        if self._connection is None:  # whoever opens it is told
            return
        self._connection = None
        if not self._is_opening:
            self._hooks.on_lost(reason)
