"""From a delivery to what is published, AMQP to AMQP; the hot path between the two wires. No I/O.

Rules
* The body frames go on as they came. Of the properties only these change: the path gets our
  broker's entry, `user_id` and the headers `CC` and `BCC` go under names of ours, since a broker
  refuses the one from anybody else and would route the copy again by the others.
* What one destination costs is paid once: method frames and patched properties are kept, the
  latter as long as producers repeat theirs.
* What cannot be read goes to the parking queue as it is; the batch goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from understudyd.bridge.ledger import Parcel
from understudyd.bridge.parking import Parking
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.errors import WireError
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
from understudyd.bridge.wire.tables import Value, encode_entry

__all__ = ["PATH_HEADER", "Forwarder"]

PATH_HEADER: Final = "x-understudy-path"
USER_HEADER: Final = "x-understudy-user-id"
KEPT: Final = 1000  # patched properties; more are not repeated

_PATH_NAME = PATH_HEADER.encode()
_RENAMED = {"CC": "x-understudy-cc", "BCC": "x-understudy-bcc"}
_CC_NAMES = (b"\x02CC", b"\x03BCC")
_USER_ID = 0x10  # in the second byte of the flags
_head = struct.Struct(">BHIHHQ").pack


class Forwarder:
    """Turns deliveries of one source into parcels for one target."""

    def __init__(
        self,
        target: Callable[[str, str], tuple[str, str]],
        here: str,
        parking: Parking,
    ) -> None:
        """``target`` tells exchange and routing key for those of a delivery; ``here`` is the name
        of the broker that messages leave, the entry they get in their path."""
        self._parking = parking
        self._target = target
        self._here = here
        self._entry = encode_entry(PATH_HEADER, here)
        self._publishes: dict[bytes, bytes] = {}  # by route
        self._patched: dict[bytes, bytes] = {}  # by properties

    def prepare(self, deliveries: Sequence[Delivery]) -> tuple[list[int], list[Parcel]]:
        """Tags and parcels of a batch."""
        publishes, patched = self._publishes, self._patched
        tags: list[int] = []
        parcels: list[Parcel] = []
        for tag, _, route, raw, size, frames in deliveries:
            tags.append(tag)
            publish = publishes.get(route) or self._publish(route)
            properties = patched.get(raw) or self._patch(raw)
            if not properties:
                parcels.append(self._unreadable(publish, raw, size, frames))
                continue
            head = _head(2, 1, 12 + len(properties), 60, 0, size)
            parcels.append((publish, b"%b%b\xce" % (head, properties), frames, size))
        return tags, parcels

    def _unreadable(self, publish: bytes, raw: bytes, size: int, frames: bytes) -> Parcel:
        parcel = (publish, content_header(raw, size), frames, size)
        return self._parking.park(parcel, "its properties cannot be read")

    def _publish(self, route: bytes) -> bytes:
        frame = encode_publish(*self._target(*split_route(route)))
        if len(self._publishes) >= KEPT:
            self._publishes.clear()
        self._publishes[route] = frame
        return frame

    def _patch(self, raw: bytes) -> bytes:
        """What to send; nothing where it cannot be read."""
        try:
            changed = self._change(raw)
        except WireError:
            return b""
        if len(self._patched) >= KEPT:
            self._patched.clear()
        self._patched[raw] = changed
        return changed

    def _change(self, raw: bytes) -> bytes:
        changed = raw
        if len(raw) > 1 and raw[1] & _USER_ID:
            changed = _with_renamed_user(changed)
        if any(name in raw for name in _CC_NAMES):
            changed = _with_renamed_copies(changed)
        if _PATH_NAME in raw:
            return set_header(changed, PATH_HEADER, self._longer(changed))
        return append_entry(changed, self._entry)

    def _longer(self, raw: bytes) -> Value:
        path = get_header(raw, PATH_HEADER)
        return f"{path},{self._here}" if isinstance(path, str) and path else self._here


def _with_renamed_user(raw: bytes) -> bytes:
    user = get(raw, "user_id")
    return set_header(patch(raw, {"user_id": None}), USER_HEADER, user)


def _with_renamed_copies(raw: bytes) -> bytes:
    for name, ours in _RENAMED.items():
        value = get_header(raw, name)
        if value is not None:
            raw = set_header(remove_header(raw, name), ours, value)
    return raw
