"""A target of STOMP that sends replies to those who wait for them.

Rules
* ActiveMQ answers what is sent to a requester that is gone with ERROR, and goes on. So that it says
  which reply that was, each asks for its receipt.
* RabbitMQ gives a receipt for it as for any other; so it is told where replies went, for somebody
  to look.
"""

from __future__ import annotations

from collections.abc import Callable

from understudy.wire.stomp import RawFrame
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.endpoints import StompDialer
from understudyd.bridge.ends.port import TargetHooks
from understudyd.bridge.ends.stomp_target import StompTarget
from understudyd.bridge.wire.receipts import Receipts

__all__ = ["StompReplyTarget"]

_GONE = b"DestinationDoesNotExistException"


class StompReplyTarget(StompTarget):
    def __init__(
        self,
        dialer: StompDialer,
        hooks: TargetHooks,
        on_gone: Callable[[str], None],
        on_doubt: Callable[[str], None],
    ) -> None:
        """``on_gone`` is called for each reply whose requester is gone, with its reply-to; the
        reply counts as settled. ``on_doubt`` gets the destination of each of which none can tell.
        """
        super().__init__(dialer, hooks)
        self._on_gone = on_gone
        self._on_doubt = on_doubt

    def send(self, pieces: list[bytes]) -> None:
        if self.dialect is not None and not self.dialect.confirms_routing:
            for head in pieces[::3]:
                self._on_doubt(head.split(b"\n", 2)[1].removeprefix(b"destination:").decode())
        super().send(pieces)

    def _make_receipts(self, dialect: Dialect) -> Receipts:
        return Receipts(is_cumulative=False)

    def _refused(self, error: RawFrame) -> bool:
        receipt = error.headers.get("receipt-id", "")
        if not receipt or _GONE not in error.body:
            return False
        confirms, _ = self._receipts.came([receipt])
        if confirms:
            # temp-queue://ID:x is /remote-temp-queue/ID:x
            kind, _, name = error.headers.get("message", "").partition("://")
            self._on_gone(f"/remote-{kind}/{name}")
            self._hooks.on_confirms(confirms)
        return bool(confirms)
