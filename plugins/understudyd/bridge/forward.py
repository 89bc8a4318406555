"""From a delivery to what is published, AMQP to AMQP; the hot path between the two wires. No I/O.

Rules
* The body frames go on as they came. Of the properties only these change: the path gets our
  broker's entry, headers are set and removed as configured, `user_id` and the headers `CC` and
  `BCC` go under names of ours, since a broker refuses the one from anybody else and would route the
  copy again by the others.
* What one destination costs is paid once: method frames and patched properties are kept, the
  latter as long as producers repeat theirs.
* A copy of a topic's message that is excluded, or has come far enough, is left out of the batch:
  the others have got theirs.
* What cannot be read, or named at the target, goes to the parking queue as it is; the rest of the
  batch goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from understudyd.bridge.addresses import from_amqp, to_amqp
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping.headers import PATH, USER_ID
from understudyd.bridge.names import Destination
from understudyd.bridge.parking import Parking
from understudyd.bridge.routes import Routes, Verdict
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.methods import encode_publish, split_route
from understudyd.bridge.wire.properties import (
    append_entry,
    get,
    get_header,
    patch,
    remove_header,
    set_header,
)
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import encode_entry

__all__ = ["Forwarder"]

KEPT: Final = 1000  # patched properties, and routes; more are not repeated

_PATH_NAME = PATH.encode()
_RENAMED = {"CC": "x-understudy-cc", "BCC": "x-understudy-bcc"}
_CC_NAMES = (b"\x02CC", b"\x03BCC")
_UNREADABLE = "its properties cannot be read"
_HAS_USER = 0x10  # in the second byte of the flags
_head = struct.Struct(">BHIHHQ").pack


class Forwarder:
    """Turns deliveries of one source into parcels for one target."""

    def __init__(self, routes: Routes, queue: str | None, parking: Parking) -> None:
        """``queue`` is the one that is read, where that is the destination; None: it is what each
        message was published to."""
        self._routes = routes
        self._queue = None if queue is None else Destination("queue", queue)
        self._parking = parking
        self._entry = encode_entry(PATH, routes.here)
        self._publishes: dict[bytes, bytes] = {}  # by route; empty: left out
        self._patched: dict[bytes, bytes] = {}  # by properties; empty: left out or parked

    def prepare(self, deliveries: Sequence[Delivery]) -> tuple[list[int], list[Parcel]]:
        """Tags and parcels of a batch, in order."""
        publishes, patched = self._publishes, self._patched
        tags: list[int] = []
        parcels: list[Parcel] = []
        for tag, _, route, raw, size, frames in deliveries:
            publish = publishes.get(route) or self._publish(route)
            properties = publish and (patched.get(raw) or self._patch(raw, route))
            if properties:
                head = _head(2, 1, 12 + len(properties), 60, 0, size)
                parcels.append((publish, b"%b%b\xce" % (head, properties), frames, size))
                tags.append(tag)
            elif parcel := self._special(route, raw, size, frames):
                parcels.append(parcel)
                tags.append(tag)
        return tags, parcels

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

    def _patch(self, raw: bytes, route: bytes) -> bytes:
        """The properties to send; nothing where they cannot be read, or have come far enough.

        The route is one that is permitted: how far a copy may go is the same for all of these.
        """
        try:
            changed = self._change(raw, route)
        except ValueError:
            return b""
        if len(self._patched) >= KEPT:
            self._patched.clear()
        self._patched[raw] = changed
        return changed

    def _change(self, raw: bytes, route: bytes) -> bytes:
        changed = raw
        if len(raw) > 1 and raw[1] & _HAS_USER:
            changed = _with_renamed_user(changed)
        if any(name in raw for name in _CC_NAMES):
            changed = _with_renamed_copies(changed)
        changed = self._routes.change_amqp(changed)
        if _PATH_NAME not in raw:
            return append_entry(changed, self._entry)
        path = _path_of(changed)
        if self._queue is None and not self._is_forwarded(route, path):
            return b""
        return set_header(changed, PATH, self._routes.longer(path))

    def _is_forwarded(self, route: bytes, path: str | None) -> bool:
        decision = self._routes.decide(self._destination(route), path)
        return decision.verdict is Verdict.FORWARD

    def _special(self, route: bytes, raw: bytes, size: int, frames: bytes) -> Parcel | None:
        """Parked, or None: left out."""
        parcel = (encode_publish(*split_route(route)), content_header(raw, size), frames, size)
        try:
            if self._queue is None and not self._is_forwarded(route, _path_of(raw)):
                return None
            to_amqp(self._routes.target(self._destination(route)))
        except Untranslatable as error:
            return self._parking.park(parcel, error.reason)
        except ValueError:
            pass
        return self._parking.park(parcel, _UNREADABLE)


def _path_of(raw: bytes) -> str | None:
    path = get_header(raw, PATH)
    return path if isinstance(path, str) and path else None


def _with_renamed_user(raw: bytes) -> bytes:
    user = get(raw, "user_id")
    return set_header(patch(raw, {"user_id": None}), USER_ID, user)


def _with_renamed_copies(raw: bytes) -> bytes:
    for name, ours in _RENAMED.items():
        value = get_header(raw, name)
        if value is not None:
            raw = set_header(remove_header(raw, name), ours, value)
    return raw
