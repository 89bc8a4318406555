"""A target that speaks STOMP 1.2.

Rules
* Where one receipt stands for all before it, one is asked for `GROUP` messages or what there is;
  while `PIPELINE` of them are out, what is to be sent waits, and goes as one group. A slow broker
  so gets large groups, and a quick one small ones. RabbitMQ is asked for each message.
* An ERROR ends the connection: all that is not confirmed is in doubt then.
* RabbitMQ's STOMP gives a receipt for what reaches no queue. So whether the queue is there is
  looked up before anything is sent, and again while something is (`stomp_check`). A copy of a
  topic's message that nobody is subscribed to there is nobody's.
"""

from __future__ import annotations

from understudy.wire.stomp import RawFrame
from understudyd.bridge.addresses import to_stomp
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.endpoints import FRAME_MAX, StompDialer
from understudyd.bridge.ends.port import ConnectionFailed, TargetHooks
from understudyd.bridge.ends.stomp_check import QueueCheck
from understudyd.bridge.ends.stomp_connection import StompConnection, StompHooks
from understudyd.bridge.names import QUEUE, Destination
from understudyd.bridge.wire.amqp import Closed

__all__ = ["StompTarget"]

GROUP = 100  # messages; more gain nothing
PIPELINE = 2  # groups under way


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
        self._check: QueueCheck | None = None
        self.dialect: Dialect | None = None

    async def open(self) -> None:
        """Connect, and see that the queue is there; raises ConnectionFailed."""
        hooks = StompHooks(self._came, self._lost, self._hooks.on_congested)
        connection = await self._dialer.dial(hooks)
        self.dialect = connection.dialect
        try:
            self._check = await self._checked(connection)
            if connection.is_over:
                raise ConnectionFailed(f"{connection.endpoint}: the connection was lost at once")
        except BaseException:
            connection.drop()
            raise
        self._number = self._groups = 0
        self._waiting = []
        self._connection = connection

    async def _checked(self, connection: StompConnection) -> QueueCheck | None:
        dialect = connection.dialect
        if not self._queue or dialect.confirms_routing or dialect.stomp is None:
            return None
        try:
            where = to_stomp(Destination(QUEUE, self._queue), dialect)
        except Untranslatable as error:
            raise ConnectionFailed(error.reason) from error
        where = dialect.stomp.making_prefix + where.removeprefix(dialect.stomp.prefixes[QUEUE])
        check = QueueCheck(connection.endpoint, where, self._missing)
        await check.look()
        return check

    def _missing(self, why: str) -> None:
        if self._connection is not None:
            self._connection.drop()
            self._lost(why, None)

    def send(self, pieces: list[bytes]) -> None:
        """Write messages, in order; the second piece of each is for the end of its headers."""
        if self._connection is None or self.dialect is None:
            return
        if self._check is not None:
            self._check.used()
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
        self._stop_checking()
        if connection is not None:
            await connection.close()

    def _stop_checking(self) -> None:
        if self._check is not None:
            self._check.stop()
            self._check = None

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
            self._stop_checking()
            self._hooks.on_lost(reason, closed)
