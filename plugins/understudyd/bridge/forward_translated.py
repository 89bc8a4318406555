"""From a delivery to what is sent, where one end speaks STOMP, or both; and where a transformer
wants to see what is sent. No I/O.

Rules
* Each message is translated by `mapping`; `Routes.change` changes it.
* A copy of a topic's message that is excluded or has come far enough, any message that has expired,
  and what a transformer drops, is left out of the batch and counted.
* What has no words at the target, or cannot be read, is for the parking queue of the source; the
  rest of the batch goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from understudyd.bridge.addresses import from_amqp, from_stomp, to_amqp, to_stomp
from understudyd.bridge.content import (
    AmqpContent,
    Content,
    Dropped,
    Expired,
    StompContent,
    Untranslatable,
)
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.port import StompDelivery
from understudyd.bridge.forward import Batch
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping import read, write
from understudyd.bridge.mapping.headers import PATH
from understudyd.bridge.names import Destination
from understudyd.bridge.parcels import amqp_parcel, stomp_parcel
from understudyd.bridge.parking_translated import Dialects, TranslatedParking
from understudyd.bridge.routes import Routes, Verdict
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.methods import encode_publish, split_route
from understudyd.bridge.wire.reader import Delivery

__all__ = ["TranslatingForwarder"]

KEPT: Final = 1000  # destinations whose address is remembered

Address: TypeAlias = "bytes | dict[str, str]"
"""The method frame of a publish, or the headers of a SEND that name where it goes."""


class TranslatingForwarder:
    """Turns deliveries of one source into parcels for one target."""

    def __init__(
        self,
        routes: Routes,
        queue: Destination | None,
        kind: str,
        parking: TranslatedParking,
        dialects: Dialects,
        frame_max: Callable[[], int],
    ) -> None:
        """``queue`` is the one that is read, where that is the destination; None: it is what each
        message was published to, of this ``kind`` where its name does not tell. ``frame_max`` tells
        the size of frames for the target in bytes."""
        self.expired = self.dropped = 0
        """Messages left out: their time was over; they were excluded, had come far enough, or the
        transformer did not want them."""
        self._routes = routes
        self._queue = queue
        self._kind = kind
        self._parking = parking
        self._dialects = dialects
        self._frame_max = frame_max
        self._addresses: dict[tuple[str, Destination], Address] = {}

    def prepare(self, deliveries: Sequence[Delivery | StompDelivery], now: int) -> Batch:
        """The parcels of a batch, in order; ``now`` is milliseconds since 1970."""
        source, target = self._dialects()
        batch = Batch([], [], [])
        for delivery in deliveries:
            tag = delivery[0]
            parcel: Parcel | None
            try:
                parcel = self._translate(delivery, source, target, now)
            except Expired:
                self.expired += 1
                continue
            except Dropped:
                self.dropped += 1
                continue
            except Untranslatable as error:
                parcel = self._park(delivery, error, source, now)
                batch.aside.append(tag)
            if parcel is not None:
                batch.tags.append(tag)
                batch.parcels.append(parcel)
        return batch

    def _translate(
        self, delivery: Delivery | StompDelivery, source: Dialect, target: Dialect, now: int
    ) -> Parcel | None:
        """None: it is not to be forwarded."""
        content, where = self._taken(delivery, source)
        message = read(content, source, now)
        if self._queue is None:
            decision = self._routes.decide(where, message.headers.get(PATH))
            if decision.verdict is not Verdict.FORWARD:
                self.dropped += 1
                return None
        address = self._addresses.get((target.name, where)) or self._address(where, target)
        if self._routes.needs_messages:
            message.destination = str(where)
        self._routes.change(message)
        written = write(message, target, now)
        if isinstance(written, AmqpContent):
            assert isinstance(address, bytes)
            return amqp_parcel(address, written, self._frame_max())
        assert isinstance(address, dict)
        return stomp_parcel({**address, **written.headers}, written.body)

    def _taken(self, delivery: Any, source: Dialect) -> tuple[Content, Destination]:
        if source.is_amqp:
            _, _, route, raw, _, frames = delivery
            where = self._queue or from_amqp(*split_route(route))
            return AmqpContent(raw, frames=frames), where
        content: StompContent = delivery[1]
        shown = content.headers.get("destination", "")
        return content, self._queue or from_stomp(shown, self._kind, source)

    def _address(self, where: Destination, target: Dialect) -> Address:
        """Raises Untranslatable."""
        renamed = self._routes.target(where)
        address: Address
        if target.stomp is None:
            address = encode_publish(*to_amqp(renamed))
        else:
            beside = target.stomp.sent_beside.get(renamed.kind)
            address = {"destination": to_stomp(renamed, target)}
            address |= dict([beside]) if beside else {}
        if len(self._addresses) >= KEPT:
            self._addresses.clear()
        self._addresses[target.name, where] = address
        return address

    def _park(self, delivery: Any, error: Untranslatable, source: Dialect, now: int) -> Parcel:
        if source.is_amqp:
            _, _, route, raw, size, frames = delivery
            publish = encode_publish(*split_route(route))
            return self._parking.park(
                (publish, content_header(raw, size), frames, size), error.reason
            )
        content: StompContent = delivery[1]
        return self._parking.park_stomp(content, error, source, now)
