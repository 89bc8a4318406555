"""A target that speaks STOMP 1.2.

Rules
* An ERROR ends the connection: all that is not confirmed is in doubt then. RabbitMQ ends it without
  one when a queue is full, and without the receipts of what it took before: the same messages would
  be doubled each time. So its going away is told as that (`outcomes.FULL`).
* RabbitMQ's STOMP gives a receipt for what reaches no queue. So whether the queue is there is
  looked up before anything is sent, and again while something is (`stomp_check`). A copy of a
  topic's message that nobody is subscribed to there is nobody's.
"""

from __future__ import annotations

from collections.abc import Awaitable

from understudy.wire.stomp import RawFrame
from understudyd.bridge.addresses import send_headers
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.endpoints import FRAME_MAX, StompDialer
from understudyd.bridge.ends.port import ConnectionFailed, TargetHooks
from understudyd.bridge.ends.stomp_check import QueueCheck
from understudyd.bridge.ends.stomp_connection import StompConnection, StompHooks
from understudyd.bridge.ends.stream import goodbye
from understudyd.bridge.names import QUEUE, Destination
from understudyd.bridge.outcomes import FULL
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.receipts import Receipts

__all__ = ["StompTarget"]


class StompTarget:
    """Where messages are sent."""

    frame_max = FRAME_MAX  # whatever comes; a frame of STOMP has no parts

    def __init__(self, dialer: StompDialer, hooks: TargetHooks, *, queue: str = "") -> None:
        """``queue`` is the one that all messages go to, where that is one."""
        self._dialer = dialer
        self._hooks = hooks
        self._queue = queue
        self._connection: StompConnection | None = None
        self._receipts = Receipts(is_cumulative=True)
        self._check: QueueCheck | None = None
        self._held: list[bytes] = []  # until it is known again that the queue is there
        self.dialect: Dialect | None = None

    async def open(self) -> None:
        """Connect, and see that the queue is there; raises ConnectionFailed."""
        hooks = StompHooks(self._came, self._lost, self._hooks.on_congested, self._refused)
        connection = await self._dialer.dial(hooks)
        self.dialect = connection.dialect
        self._check = await connection.set_up(self._checked(connection))
        self._held = []
        self._receipts = self._make_receipts(connection.dialect)
        self._connection = connection

    async def _checked(self, connection: StompConnection) -> QueueCheck | None:
        dialect = connection.dialect
        if not self._queue or dialect.confirms_routing:
            return None
        try:
            where = send_headers(Destination(QUEUE, self._queue), dialect, makes=True)
        except Untranslatable as error:
            raise ConnectionFailed(error.reason) from error
        check = QueueCheck(connection.endpoint, where["destination"], self._missing)
        await check.look()
        return check

    def _make_receipts(self, dialect: Dialect) -> Receipts:
        return Receipts(is_cumulative=dialect.confirms_are_cumulative)

    def _refused(self, error: RawFrame) -> bool:
        """Whether an ERROR leaves the connection as it was."""
        return False

    def _missing(self, why: str) -> None:
        if self._connection is not None:
            self._connection.fail(why)

    def send(self, pieces: list[bytes]) -> None:
        """Write messages, in order; the second piece of each is for the end of its headers."""
        if self._connection is None:
            return
        if self._check is None or (not self._held and self._check.is_known(self._release)):
            self._write(self._receipts.send(pieces))
        else:
            self._held += pieces

    def _release(self) -> None:
        held, self._held = self._held, []
        self._write(self._receipts.send(held))

    def _write(self, pieces: list[bytes]) -> None:
        if pieces and self._connection is not None:
            self._connection.send(pieces)

    def close(self) -> Awaitable[None]:
        """End in order; what was not confirmed is in doubt."""
        connection, self._connection = self._connection, None
        self._stop_checking()
        return goodbye(connection)

    def _stop_checking(self) -> None:
        if self._check is not None:
            self._check.stop()
            self._check = None

    def _came(self, frames: list[RawFrame]) -> None:
        if self._connection is None:
            return
        receipts = [frame.headers.get("receipt-id", "") for frame in frames]
        confirms, pieces = self._receipts.came(receipts)
        self._write(pieces)
        if confirms:
            self._hooks.on_confirms(confirms)

    def _lost(self, reason: str, closed: Closed | None) -> None:
        if self._connection is not None:  # else whoever opens it is told
            self._connection = None
            self._stop_checking()
            if closed is None and self.dialect and not self.dialect.confirms_or_tells:
                closed = Closed("connection", FULL, reason)
            self._hooks.on_lost(reason, closed)
