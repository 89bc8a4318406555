"""From a delivery to what is sent, where one end speaks STOMP, or both; and where a transformer
wants to see what is sent. No I/O.

Rules
* Each message is translated by `mapping`; `Routes.change` changes it.
* A copy of a topic's message that is excluded or has come far enough, any message that has expired,
  and what a transformer drops, is left out of the batch and counted. A queue's message that is
  excluded or has come far enough goes back to the tail of its queue; so does one that was delivered
  in vain too often (`worn`).
* What has no words at the target, or cannot be read, is for the parking queue of the source; the
  rest of the batch goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from understudyd.bridge.addresses import from_amqp, from_stomp, send_headers, to_amqp
from understudyd.bridge.content import (
    AmqpContent,
    Content,
    Dropped,
    Expired,
    StompContent,
    Untranslatable,
)
from understudyd.bridge.dedup.identity import hop_id
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.port import StompDelivery
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping import Message, read, relay, write
from understudyd.bridge.mapping.headers import PATH
from understudyd.bridge.names import QUEUE, Destination
from understudyd.bridge.parcels import amqp_parcel, stomp_parcel
from understudyd.bridge.parking_translated import Dialects, TranslatedParking
from understudyd.bridge.replies import ReplyBook
from understudyd.bridge.routes import Routes, Verdict
from understudyd.bridge.wire.amqp import FRAME_MIN
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.methods import encode_publish, split_route
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.words import Batch
from understudyd.bridge.worn import COUNT, fresh, is_worn_content

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
        replies: ReplyBook | None = None,
    ) -> None:
        """``queue`` is the one that is read, where that is the destination; None: it is what each
        message was published to, of this ``kind`` where its name does not tell. ``frame_max`` tells
        the size of frames for the target in bytes. ``replies`` has the addresses that responders
        are told."""
        self.expired = self.dropped = 0
        """Messages left out: their time was over; they were excluded, had come far enough, or the
        transformer did not want them."""
        self.hop = ""
        """Begins the ids by which the target is to know messages again; empty: it is told none."""
        self._routes = routes
        self._queue = queue
        self._kind = kind
        self._parking = parking
        self._dialects = dialects
        self._frame_max = frame_max
        self._replies = replies
        self._addresses: dict[tuple[str, Destination], Address] = {}

    def prepare(self, deliveries: Sequence[Delivery | StompDelivery], now: int) -> Batch:
        """The parcels of a batch, in order; ``now`` is milliseconds since 1970."""
        source, target = self._dialects()
        tags: list[int] = []
        parcels: list[Parcel] = []
        aside: list[int] = []
        stays: list[int] = []
        for delivery in deliveries:
            tag = delivery[0]
            try:
                parcel, goes_on = self._translate(delivery, source, target, now)
                if not goes_on:
                    aside.append(tag)
                    stays.append(tag)
            except Expired:
                self.expired += 1
                continue
            except Dropped:
                self.dropped += 1
                continue
            except (Untranslatable, ValueError, TypeError) as error:
                parcel = self._park(delivery, _in_words(error, target), source, now)
                aside.append(tag)
            tags.append(tag)
            parcels.append(parcel)
        return Batch(tags, parcels, aside, stays)

    def _translate(
        self, delivery: Delivery | StompDelivery, source: Dialect, target: Dialect, now: int
    ) -> tuple[Parcel, bool]:
        """The parcel, and whether it goes on, or back to where it came from."""
        content, where = self._taken(delivery, source)
        message = read(content, source, now)
        decision = self._routes.decide(where, message.headers.get(PATH))
        if decision.verdict is not Verdict.FORWARD:
            if self._kind != QUEUE:
                raise Dropped(decision.reason)
            return self._back(content, message, where, source, now), False
        most = self._routes.most_in_vain
        if self._queue is not None and is_worn_content(content, most):
            return self._back(content, message, where, source, now), False
        address = self._addresses.get((target.name, where)) or self._address(where, target)
        if self._routes.needs_messages:
            message.destination = str(where)
        self._routes.change(message)
        if self._replies is not None and (reply_to := message.properties.get("reply_to")):
            message.properties["reply_to"] = self._replies.address(reply_to)
        written = write(message, target, now)
        if isinstance(written, AmqpContent):
            assert isinstance(address, bytes)
            return amqp_parcel(address, written, self._frame_max()), True
        assert isinstance(address, dict)
        if self.hop and target.stomp is not None and (name := target.stomp.duplicate_id):
            own = hop_id(self.hop, delivery, source)
            address = {**address, name: own} if own else address
        return stomp_parcel({**address, **written.headers}, written.body), True

    def _back(
        self, content: Content, message: Message, where: Destination, source: Dialect, now: int
    ) -> Parcel:
        """To the tail of the queue it came from; raises Untranslatable or Expired."""
        if isinstance(content, AmqpContent):
            again = AmqpContent(fresh(relay(content.properties, now)), content.body)
            return amqp_parcel(encode_publish(*to_amqp(where)), again, FRAME_MIN)
        message.headers.pop(COUNT, None)
        written = write(message, source, now)
        assert isinstance(written, StompContent)
        return stomp_parcel({**send_headers(where, source), **written.headers}, written.body)

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
        address = (
            encode_publish(*to_amqp(renamed)) if target.is_amqp else send_headers(renamed, target)
        )
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


def _in_words(error: Exception, target: Dialect) -> Untranslatable:
    if isinstance(error, Untranslatable):
        return error
    return Untranslatable(f"{target.name} cannot be told of it: {type(error).__name__}")
