"""From a delivery to what is published, AMQP to AMQP; the hot path between the two wires. No I/O.

Rules
* The body frames go on as they came. Of the properties only these change: the path gets our
  broker's entry, headers are set and removed as configured, and what `mapping.relay` changes.
* What one destination costs is paid once: method frames and patched properties are kept, the
  latter as long as producers repeat theirs. Those with an expiration are not: what is left of it
  depends on when; nor are those whose reply comes back over the bridge.
* A copy of a topic's message that is excluded, or has come far enough, is left out of the batch:
  the others have got theirs. So is what has expired. Both are counted.
* A queue's message that has come far enough goes back to the tail of its queue; so does one that
  was delivered in vain too often (`worn`).
* What cannot be read, or named at the target, goes to the parking queue as it is; what has more
  properties then than fit into a frame, to that of the source. The rest of the batch goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from understudyd.bridge.addresses import from_amqp, to_amqp
from understudyd.bridge.content import Expired, Untranslatable
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping import relay
from understudyd.bridge.mapping.headers import PATH
from understudyd.bridge.names import Destination
from understudyd.bridge.parking import Parking
from understudyd.bridge.replies import HAS_REPLY, ReplyBook
from understudyd.bridge.routes import Routes, Verdict
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.methods import encode_publish, split_route
from understudyd.bridge.wire.properties import append_entry, get_header, set_header
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import encode_entry
from understudyd.bridge.words import Batch
from understudyd.bridge.worn import fresh, is_worn

__all__ = ["Forwarder"]

KEPT: Final = 1000  # patched properties, and routes; more are not repeated
LONGEST_KEPT: Final = 4096  # bytes of properties; larger ones are no loss to patch again

_PATH_NAME = PATH.encode()
_UNREADABLE = "its properties cannot be read"
_BACK, _HERE, _THERE = "back to its queue", "parked at the source", "parked at the target"
_HAS_EXPIRATION = 0x01  # in the first byte of the flags
_head = struct.Struct(">BHIHHQ").pack


class Forwarder:
    """Turns deliveries of one source into parcels for one target."""

    def __init__(
        self, routes: Routes, queue: str | None, parking: Parking, replies: ReplyBook | None = None
    ) -> None:
        """``queue`` is the one that is read, where that is the destination; None: it is what each
        message was published to. ``replies`` has the addresses that responders are told."""
        self._routes = routes
        self._queue = None if queue is None else Destination("queue", queue)
        self._back = b"" if queue is None else encode_publish("", queue)
        self._parking = parking
        self._replies = replies
        self._entry = encode_entry(PATH, routes.here)
        self.expired = self.dropped = 0
        """Messages left out: their time was over; they were excluded or had come far enough."""
        self._publishes: dict[bytes, bytes] = {}  # by route; empty: left out
        self._patched: dict[bytes, bytes] = {}  # by properties; empty: left out or parked

    def prepare(self, deliveries: Sequence[Delivery], now: int) -> Batch:
        """The parcels of a batch, in order; ``now`` is milliseconds since 1970."""
        publishes, patched = self._publishes, self._patched
        tags: list[int] = []
        parcels: list[Parcel] = []
        stays: list[int] = []
        aside: list[int] = []
        parked = 0
        for tag, again, route, raw, size, frames in deliveries:
            publish = publishes.get(route) or self._publish(route)
            if again and self._is_worn(raw):
                publish = b""
            properties = publish and (patched.get(raw) or self._patch(raw, route, now))
            if properties:
                head = _head(2, 1, 12 + len(properties), 60, 0, size)
                parcels.append((publish, b"%b%b\xce" % (head, properties), frames, size))
                tags.append(tag)
            elif special := self._special(route, raw, size, frames, now):
                parcel, where = special
                parcels.append(parcel)
                tags.append(tag)
                parked += where is _THERE
                if where is _BACK:
                    stays.append(tag)
                if where is not _THERE:
                    aside.append(tag)
        return Batch(tags, parcels, aside, stays, parked)

    def _is_worn(self, raw: bytes) -> bool:
        try:
            return bool(self._back) and is_worn(raw, self._routes.most_in_vain)
        except ValueError:
            return False

    def _destination(self, route: bytes) -> Destination:
        return self._queue or from_amqp(*split_route(route))

    def _publish(self, route: bytes) -> bytes:
        """The method frame for a route; nothing where there is none."""
        destination = self._destination(route)
        frame = b""
        if self._queue is not None or self._routes.permits(destination):
            try:
                frame = encode_publish(*to_amqp(self._routes.target(destination)))
            except Untranslatable:
                frame = b""
        if len(self._publishes) >= KEPT:
            self._publishes.clear()
        self._publishes[route] = frame
        return frame

    def _patch(self, raw: bytes, route: bytes, now: int) -> bytes:
        """The properties to send; nothing where they cannot be read, are too many, are of a message
        that has expired, or of one that has come far enough.

        The route is one that is permitted: how far a copy may go is the same for all of these.
        """
        try:
            changed = self._change(raw, route, now)
        except (ValueError, Untranslatable, Expired):
            return b""
        told = changed
        if self._replies is not None and changed and changed[0] & HAS_REPLY:
            told = self._replies.patch(changed)
        if len(told) > self._parking.room:
            return b""
        if told is changed and len(raw) <= LONGEST_KEPT and not raw[0] & _HAS_EXPIRATION:
            if len(self._patched) >= KEPT:
                self._patched.clear()
            self._patched[raw] = changed
        return told

    def _change(self, raw: bytes, route: bytes, now: int) -> bytes:
        changed = self._routes.change_amqp(relay(raw, now))
        if _PATH_NAME not in raw:
            return append_entry(changed, self._entry)
        path = _path_of(changed)
        if not self._is_forwarded(route, path):
            return b""
        return set_header(changed, PATH, self._routes.longer(path))

    def _is_forwarded(self, route: bytes, path: str | None) -> bool:
        decision = self._routes.decide(self._destination(route), path)
        return decision.verdict is Verdict.FORWARD

    def _special(
        self, route: bytes, raw: bytes, size: int, frames: bytes, now: int
    ) -> tuple[Parcel, str] | None:
        """Parked, or back to its queue, and which of these; or None: left out."""
        parcel = (encode_publish(*split_route(route)), content_header(raw, size), frames, size)
        try:
            if self._is_worn(raw) or not self._is_forwarded(route, _path_of(raw)):
                if self._back:
                    header = content_header(fresh(relay(raw, now)), size)
                    return (self._back, header, frames, size), _BACK
                self.dropped += 1
                return None
            to_amqp(self._routes.target(self._destination(route)))
            length, room = len(self._change(raw, route, now)), self._parking.room
            if length > room:
                told = f"its properties would have {length} bytes; {room} fit into a frame"
                return self._parking.park_here(parcel, told), _HERE
        except Expired:
            self.expired += 1
            return None
        except Untranslatable as error:
            return self._parking.park(parcel, error.reason), _THERE
        except ValueError:
            pass
        return self._parking.park(parcel, _UNREADABLE), _THERE


def _path_of(raw: bytes) -> str | None:
    path = get_header(raw, PATH)
    return path if isinstance(path, str) and path else None
