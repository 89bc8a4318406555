"""Parking where one end of a link speaks STOMP, or both. No I/O.

Rules, beside those of `parking`
* What has no words at the target is parked at the source as it came. What the target refused is
  said in the source's words again: with its sidecars that is what it was.
* A copy says less than a message whose content its broker does not show over STOMP: ActiveMQ is
  asked to move the message itself, to its dead letter queue (`DEAD_LETTER`). A transient one it
  would drop there. Such a message, and one that the source would not take back, stays where it is
  (`LEFT`): not settled, in the way of what comes behind it, and shown as the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from understudyd.bridge.addresses import send_headers
from understudyd.bridge.content import AmqpContent, Content, Hidden, StompContent, Untranslatable
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping import Message, read, write
from understudyd.bridge.mapping.headers import PATH
from understudyd.bridge.names import QUEUE, Destination
from understudyd.bridge.parcels import (
    amqp_content,
    amqp_parcel,
    amqp_route,
    stomp_content,
    stomp_parcel,
)
from understudyd.bridge.parking import LONGEST_REASON, PARKED, PERSISTENT, Parking, one_hop_less
from understudyd.bridge.wire.amqp import FRAME_MIN
from understudyd.bridge.wire.methods import encode_publish

__all__ = ["DEAD_LETTER", "LEFT", "Dialects", "TranslatedParking"]

Dialects: TypeAlias = Callable[[], tuple[Dialect, Dialect]]
"""Those of source and target, as they are now."""

DEAD_LETTER: Final = b"dead letter"
LEFT: Final = b"left"
"""As the first piece of a parcel instead of a message; the second is the reason."""

_NEVER = 0  # the moment at which nothing has expired


class TranslatedParking(Parking):
    """The parking queues of one bridge."""

    def __init__(
        self,
        bridge: str,
        dialects: Dialects,
        queue: str = "",
        now: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(bridge, queue, now)
        self._dialects = dialects

    def park_at_source(self, parcel: Parcel, reason: str) -> Parcel:
        source, target = self._dialects()
        self.where, self.reason = self.queue, reason
        content: Content
        if target.is_amqp:
            content, (exchange, key) = amqp_content(parcel), amqp_route(parcel)
            told = {"exchange": exchange, "routing-key": key}
        else:
            content = stomp_content(parcel)
            told = {"destination": content.headers.pop("destination")}
        try:
            message = read(content, target, _NEVER)
            if path := one_hop_less(message.headers.pop(PATH, "")):
                message.headers[PATH] = path
            return self._written(message, source, {"reason": reason, **told}, _NEVER)
        except Untranslatable as error:
            return _left(f"{reason}; as a message for {source.name}: {error.reason}", parcel[3])

    def park_stomp(
        self, content: StompContent, reason: Untranslatable, source: Dialect, now: int
    ) -> Parcel:
        """What a STOMP source delivered, bound for its own parking queue."""
        self.where, self.reason = self.queue, reason.reason
        if isinstance(reason, Hidden):
            self.where = "the broker's dead letter queue"
            is_kept = content.headers.get("persistent") == "true"
            words = (DEAD_LETTER, b"") if is_kept else (LEFT, reason.reason.encode())
            return (*words, b"", 0)
        told = {
            "reason": reason.reason,
            "destination": content.headers.get("destination", ""),
            "message-id": content.headers.get("message-id", ""),
        }
        try:
            return self._written(read(content, source, now), source, told, now)
        except Untranslatable as error:
            return _left(f"{reason.reason}; {error.reason}", len(content.body))

    def _written(
        self, message: Message, source: Dialect, told: Mapping[str, str], now: int
    ) -> Parcel:
        """Raises Untranslatable."""
        notes = {**told, "reason": told["reason"][:LONGEST_REASON], "bridge": self.bridge}
        if self.now is not None:
            notes["at"] = str(self.now())
        if message.deadline is not None:
            notes["deadline"] = str(message.deadline)
            message.deadline = None
        message.delivery_mode = PERSISTENT
        for name in [name for name in message.headers if name.startswith(PARKED)]:
            del message.headers[name]
        message.headers |= {PARKED + name: text for name, text in notes.items()}
        written = write(message, source, now)
        if isinstance(written, AmqpContent):
            return amqp_parcel(encode_publish("", self.queue), written, FRAME_MIN)
        where = send_headers(Destination(QUEUE, self.queue), source, makes=True)
        return stomp_parcel({**where, **written.headers}, written.body)


def _left(reason: str, size: int) -> Parcel:
    return (LEFT, reason.encode("utf-8", "replace"), b"", size)
