"""Messages that cannot reach their destination, as they go to the parking queue. No I/O.

Rules
* Such a message keeps body, properties and headers. Headers `x-understudy-parked-*` tell why, from
  which bridge and where to; it is persistent, and its expiration moves into a header, so that it
  does not vanish from the parking queue.
* Properties that cannot be read are kept whole as one header of bytes.
"""

from __future__ import annotations

from typing import Final

from understudyd.bridge.ledger import Parcel
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import encode_publish, split_route
from understudyd.bridge.wire.properties import build, get, patch, set_header
from understudyd.bridge.wire.tables import Value

__all__ = ["PARKED", "Parking"]

PARKED: Final = "x-understudy-parked-"
PERSISTENT: Final = 2
LONGEST_REASON: Final = 1000  # characters

_PROPERTIES = slice(19, -1)  # of a header frame
_ROUTE = slice(13, -2)  # of the method frame of a publish


class Parking:
    """The parking queue of one bridge."""

    def __init__(self, bridge: str) -> None:
        self.queue = f"understudy.parking.{bridge}"
        self._bridge = bridge
        self._publish = encode_publish("", self.queue)

    def holds(self, parcel: Parcel) -> bool:
        """Whether the parcel is bound for the parking queue already."""
        return parcel[0] == self._publish

    def park(self, parcel: Parcel, reason: str) -> Parcel:
        """The same message, bound for the parking queue."""
        publish, header, frames, size = parcel
        exchange, routing_key = split_route(publish[_ROUTE])
        told: dict[str, Value] = {
            "reason": reason[:LONGEST_REASON],
            "bridge": self._bridge,
            "exchange": exchange,
            "routing-key": routing_key,
        }
        raw = header[_PROPERTIES]
        try:
            told["expiration"] = get(raw, "expiration")
            properties = patch(raw, {"delivery_mode": PERSISTENT, "expiration": None})
            properties = _with(properties, told)
        except WireError:
            told = {**told, "properties": raw, "expiration": None}
            properties = _with(build({"delivery_mode": PERSISTENT}), told)
        return (self._publish, content_header(properties, size), frames, size)


def _with(properties: bytes, told: dict[str, Value]) -> bytes:
    for name, value in told.items():
        if value is not None:
            properties = set_header(properties, PARKED + name, value)
    return properties
