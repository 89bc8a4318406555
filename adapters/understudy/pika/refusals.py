"""What brokers refuse of messages, and who hears of it when nobody waits for them."""

from __future__ import annotations

from collections import deque
from typing import Any

from understudy import errors
from understudy.core.events import MessageFailed
from understudy.failover.supervisor import Supervisor
from understudy.pika.errors import Nacked, Unroutable
from understudy.pika.wire import Wire

__all__ = ["Refusals", "nacked", "tell", "unroutable"]

KEPT = 1000  # for a flush that may never come; each was told as an event


def tell(supervisor: Supervisor[Wire], reason: str, key: str | None) -> None:
    endpoint = str(supervisor.current or "")
    supervisor.tell(MessageFailed(endpoint, reason, message_id=key or ""))


class Refusals:
    """Of tracked messages: each is told as `MessageFailed` now, and raised by a flush later."""

    def __init__(self, supervisor: Supervisor[Wire]) -> None:
        self._supervisor = supervisor
        self._kept: deque[errors.DeliveryFailed] = deque(maxlen=KEPT)

    def add(self, error: errors.DeliveryFailed) -> None:
        self._kept.append(error)
        tell(self._supervisor, str(error), error.message_id)

    def raise_first(self) -> None:
        """Raise the first, if any; the others were told, and are forgotten."""
        if self._kept:
            first = self._kept[0]
            self._kept.clear()
            raise first


def nacked(key: str, messages: list[Any] | None = None) -> Nacked:
    text = f"message {key} was refused: the broker answered basic.nack"
    return Nacked(text, message_id=key, messages=messages or [])


def unroutable(key: str, returned: Any = None) -> Unroutable:
    """``returned``: pika's ReturnedMessage, where it was kept."""
    if returned is None:
        return Unroutable(f"message {key} reached no queue", message_id=key)
    text = f"message {key} reached no queue: {returned.method.reply_text}"
    return Unroutable(text, message_id=key, messages=[returned])
