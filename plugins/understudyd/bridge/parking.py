"""Messages that cannot reach their destination, as they go to a parking queue. No I/O.

Rules
* Such a message keeps body, properties and headers. Headers `x-understudy-parked-*` tell why, from
  which bridge and where to; those that a producer made up are removed, so that a retry believes
  none. It is persistent, and its expiration moves into a header, so that it does not vanish from
  the parking queue.
* What the target returned is parked there. What it would close over, and what it has no words for,
  is parked at the source, without our broker in its path: it has not left.
* Properties that cannot be read are kept whole as one header of bytes.
* Properties are one frame: of what is told, that which finds no room there is left out or made
  shorter, the reason before where it was bound for. Where even that does not do, what the broker
  itself has added since the message was published there (`x-death` and its kin) is left out too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from understudyd.bridge.content import Untranslatable
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping import relay
from understudyd.bridge.mapping.headers import PATH
from understudyd.bridge.parcels import PROPERTIES, ROUTE
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import encode_publish, split_route
from understudyd.bridge.wire.properties import (
    build,
    get,
    get_header,
    header_content,
    patch,
    remove_header,
    set_header,
)
from understudyd.bridge.wire.tables import Value, entries

__all__ = ["HEAD", "PARKED", "Parking", "fit", "one_hop_less"]

PARKED: Final = "x-understudy-parked-"
NOTED_OF_DEATH: Final = ("exchange", "queue", "reason")
PERSISTENT: Final = 2
LONGEST_REASON: Final = 1000  # characters
SHORTEST_REASON: Final = 10
REASON: Final = f"{PARKED}reason"

#: In this order.
LEFT_OUT: Final = (
    REASON,
    *(f"{PARKED}{name}" for name in ("at", "bridge")),
    "x-death",
    *(f"x-{which}-death-{name}" for which in ("first", "last") for name in NOTED_OF_DEATH),
    *(f"{PARKED}{name}" for name in ("exchange", "routing-key", "expiration")),
)

_PARKED = PARKED.encode()

HEAD = 20  # bytes of a header frame beside the properties


class Parking:
    """The parking queues of one bridge, where both of its ends speak AMQP."""

    def __init__(
        self,
        bridge: str,
        queue: str = "",
        now: Callable[[], int] | None = None,
        frame_max: Callable[[], int] | None = None,
    ) -> None:
        """``queue`` where it has a name of its own; ``now`` is asked when something is parked, for
        ms since 1970, and ``frame_max`` for the bytes of the target's largest frame."""
        self.now = now
        self._frame_max = frame_max
        self.bridge = bridge
        self.queue = queue or f"understudy.parking.{bridge}"
        self.where = self.queue
        """Where the last one that was parked went to."""
        self.reason = ""
        """Why that was parked."""
        self._publish = encode_publish("", self.queue)

    @property
    def room(self) -> float:
        """The bytes that the properties of a message may have at the target."""
        return self._frame_max() - HEAD if self._frame_max is not None else math.inf

    def holds(self, parcel: Parcel) -> bool:
        """Whether the parcel is bound for the parking queue already."""
        return parcel[0] == self._publish

    def park(self, parcel: Parcel, reason: str) -> Parcel:
        """The same message, bound for the parking queue of the target."""
        publish, header, frames, size = self.park_here(parcel, reason)
        properties = fit(header[PROPERTIES], self.room)
        return (publish, content_header(properties, size), frames, size)

    def park_here(self, parcel: Parcel, reason: str) -> Parcel:
        """What was never changed for the target, bound for the parking queue of the source; `fit`
        is still to be asked when the room there is known."""
        self.where, self.reason = self.queue, reason
        publish, header, frames, size = parcel
        exchange, routing_key = split_route(publish[ROUTE])
        told: dict[str, Value] = {
            "exchange": exchange,
            "routing-key": routing_key,
            "bridge": self.bridge,
            "at": self.now and self.now(),
            "reason": reason[:LONGEST_REASON],
        }
        raw = header[PROPERTIES]
        try:
            first = {"expiration": get(raw, "expiration")}
            kept = relay(patch(raw, {"delivery_mode": PERSISTENT, "expiration": None}), 0)
            kept = _without_notes(kept)
        except (WireError, Untranslatable):
            first = {}
            kept = set_header(build({"delivery_mode": PERSISTENT}), f"{PARKED}properties", raw)
        for name, value in {**first, **told}.items():
            if value is not None:
                kept = set_header(kept, PARKED + name, value)
        return (self._publish, content_header(kept, size), frames, size)

    def park_at_source(self, parcel: Parcel, reason: str) -> Parcel:
        """The message of a parcel for the target, bound for the parking queue of the source."""
        publish, header, frames, size = parcel
        raw = header[PROPERTIES]
        try:
            path = get_header(raw, PATH)
            if isinstance(path, str):
                left = one_hop_less(path)
                raw = set_header(raw, PATH, left) if left else remove_header(raw, PATH)
        except WireError:
            pass
        return self.park_here((publish, content_header(raw, size), frames, size), reason)


def fit(raw: bytes, room: float) -> bytes:
    """The properties without what finds no room, see above; they may be too large still.

    Raises WireError for those that cannot be read.
    """
    if len(raw) <= room:
        return raw
    reason = get_header(raw, REASON)
    for name in LEFT_OUT:
        if len(raw) > room:
            raw = remove_header(raw, name)
    while isinstance(reason, str) and len(reason) > SHORTEST_REASON and len(raw) < room:
        told = set_header(raw, REASON, reason)
        if len(told) <= room:
            return told
        reason = reason[: len(reason) // 2]
    return raw


def _without_notes(raw: bytes) -> bytes:
    names = [name for name, _, _, _ in entries(header_content(raw)) if name.startswith(_PARKED)]
    for name in names:
        raw = remove_header(raw, name.decode("utf-8", "surrogateescape"))
    return raw


def one_hop_less(path: str) -> str:
    """The path without the broker that was left last."""
    return path.rpartition(",")[0]
