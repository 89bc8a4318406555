"""The two ends of a link that speak STOMP 1.2.

Rules
* One connection for each end: on RabbitMQ an acknowledgement stands for all that was delivered
  before it on the connection, elsewhere for all of its subscription; here both are the same.
* Only ACK is sent for a delivery, never NACK: on ActiveMQ and Artemis that takes the message away,
  and RabbitMQ would deliver it again at once. What is not acknowledged goes back when the
  connection ends.
* A window is opened slowly only where a delivery that comes back counts (RabbitMQ). As a
  subscription cannot be changed, further ones are added: their windows add up.
* Where one receipt stands for all before it, one is asked for `GROUP` messages or what there is;
  while `PIPELINE` of them are out, what is to be sent waits, and goes as one group. A slow broker
  so gets large groups, and a quick one small ones.
* An ERROR ends the connection: all that is not confirmed is in doubt then.
* RabbitMQ's STOMP gives a receipt for what reaches no queue. So whether the queue is there is
  looked up before anything is sent, and every `CHECK_EVERY` while something is (`stomp_check`).
"""

from __future__ import annotations

import asyncio

from understudy.errors import ConfigurationError
from understudy.wire.stomp import RawFrame, encode
from understudyd.bridge.addresses import subscribe_headers
from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.endpoints import FRAME_MAX, StompDialer
from understudyd.bridge.ends.port import (
    ConnectionFailed,
    SourceHooks,
    StompDelivery,
    TargetHooks,
)
from understudyd.bridge.ends.stomp_connection import StompConnection, StompHooks
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.names import Pattern
from understudyd.bridge.wire.amqp import Closed

__all__ = ["StompSource", "StompTarget", "park"]

WINDOW_SIZE = 1 << 20  # bytes, where a broker counts these
GROUP = 100  # messages; more gain nothing
PIPELINE = 2  # groups under way
PARKING_TIMEOUT = 30.0  # s


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
        expires: int | None = None,
        selector: str = "",
        after_others: bool = False,
    ) -> None:
        """``prefetch`` is the window where it need not be opened slowly. ``durable`` names the
        subscription to a topic, and us: of one name one is connected. The others are those of
        `addresses.subscribe_headers`."""
        self._dialer = dialer
        self._pattern = pattern
        self._hooks = hooks
        self._prefetch = prefetch
        self._durable = durable
        self._expires = expires
        self._selector = selector
        self._after_others = after_others
        self._connection: StompConnection | None = None
        self._is_open = False
        self._subscriptions = 0
        self._window = 0  # of all of them
        self._ids: list[str] = []  # of what is not acknowledged, in order
        self._tag = 0  # the last one that was given
        self._early: list[RawFrame] = []  # what came before the subscription was confirmed
        self.dialect: Dialect | None = None

    async def open(self, window: int, frame_max: int) -> None:
        """Connect and subscribe; raises ConnectionFailed."""
        hooks = StompHooks(self._came, self._lost, lambda _: None)
        connection = await self._dialer.dial(hooks, self._durable)
        self._subscriptions = self._tag = 0
        self._ids, self._early = [], []
        self.dialect = connection.dialect
        try:
            self._window = self._first_window(window)
            await connection.call("SUBSCRIBE", self._subscribe(self._window))
            if connection.is_over:
                raise ConnectionFailed("the connection was lost at once")
        except ConfigurationError as error:
            connection.drop()
            raise ConnectionFailed(str(error)) from error
        except BaseException:
            connection.drop()
            raise
        self._connection = connection
        if early := self._early:
            self._came(early)

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
            expires=self._expires,
            selector=self._selector,
            after_others=self._after_others,
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
            self._connection.write(encode("ACK", {"id": self._ids[count - 1]}))
            del self._ids[:count]

    async def close(self) -> None:
        """End; what was not acknowledged goes back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

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
            self._connection.drop()
            self._lost("a message cannot be acknowledged: it has no header ack")
            return
        first, self._tag = self._tag + 1, self._tag + len(messages)
        self._hooks.on_deliveries(
            [
                (tag, StompContent(frame.headers, frame.body))
                for tag, frame in enumerate(messages, first)
            ]
        )

    def _lost(self, reason: str, closed: Closed | None = None) -> None:
        if self._connection is not None:  # else whoever opens it is told
            self._connection = None
            self._hooks.on_lost(reason)


class StompTarget:
    """Where messages are sent."""

    frame_max = FRAME_MAX  # whatever comes; a frame of STOMP has no parts

    def __init__(self, dialer: StompDialer, hooks: TargetHooks, *, queue: str = "") -> None:
        """``queue`` is the one that all messages go to, where that is one."""
        self._dialer = dialer
        self._hooks = hooks
        self._queue = queue
        self._connection: StompConnection | None = None
        self._number = 0  # of the last message that was sent
        self._groups = 0  # that a receipt is to come for
        self._waiting: list[bytes] = []
        self.dialect: Dialect | None = None

    async def open(self) -> None:
        """Connect; raises ConnectionFailed."""
        hooks = StompHooks(self._came, self._lost, self._hooks.on_congested)
        connection = await self._dialer.dial(hooks)
        self.dialect = connection.dialect
        self._number = self._groups = 0
        self._waiting = []
        self._connection = connection

    def send(self, pieces: list[bytes]) -> None:
        """Write messages, in order; the second piece of each is for the end of its headers."""
        if self._connection is None or self.dialect is None:
            return
        if not self.dialect.confirms_are_cumulative:
            self._send_each(pieces)
            return
        self._waiting += pieces
        self._send_groups()

    def _send_each(self, pieces: list[bytes]) -> None:
        assert self._connection is not None
        first = self._number + 1
        self._number += len(pieces) // 3
        pieces[1::3] = [b"receipt:%d\n\n" % n for n in range(first, self._number + 1)]
        self._connection.send(pieces)

    def _send_groups(self) -> None:
        """What waits, as far as receipts may be asked for."""
        while self._waiting and self._groups < PIPELINE and self._connection is not None:
            group = self._waiting[: 3 * GROUP]
            del self._waiting[: 3 * GROUP]
            count = len(group) // 3
            self._number += count
            self._groups += 1
            group[1::3] = [b"\n"] * (count - 1) + [b"receipt:%d\n\n" % self._number]
            self._connection.send(group)

    async def close(self) -> None:
        """End in order; what was not confirmed is in doubt."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _came(self, frames: list[RawFrame]) -> None:
        assert self.dialect is not None
        multiple = int(self.dialect.confirms_are_cumulative)
        numbers = [frame.headers.get("receipt-id", "") for frame in frames]
        confirms = [(int(number), multiple, True) for number in numbers if number.isdecimal()]
        self._groups -= len(confirms)
        if confirms and self._connection is not None:
            self._send_groups()
            self._hooks.on_confirms(confirms)

    def _lost(self, reason: str, closed: Closed | None) -> None:
        if self._connection is not None:  # else whoever opens it is told
            self._connection = None
            self._hooks.on_lost(reason, closed)


async def park(dialer: StompDialer, parcel: Parcel) -> None:
    """Send one message over a connection of its own, to where it is bound for.

    Raises ConnectionFailed when it is not confirmed.
    """
    confirmed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def answer(failure: str) -> None:
        if not confirmed.done():
            confirmed.set_result(failure)

    target = StompTarget(
        dialer,
        TargetHooks(
            on_confirms=lambda _: answer(""),
            on_returned=lambda _: None,
            on_blocked=lambda _: None,
            on_congested=lambda _: None,
            on_lost=lambda reason, _: answer(reason),
        ),
    )
    await target.open()
    try:
        target.send(list(parcel[:3]))
        if failure := await asyncio.wait_for(confirmed, PARKING_TIMEOUT):
            raise ConnectionFailed(failure)
    except asyncio.TimeoutError:
        raise ConnectionFailed(f"no receipt within {PARKING_TIMEOUT:g} s") from None
    finally:
        await target.close()
