"""Parked messages as they were: what the headers of `parking` told is taken out again. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from understudyd.bridge.ledger import Parcel
from understudyd.bridge.parking import PARKED
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import patch, read, remove_header
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import Value

__all__ = ["Note", "note_of", "noted", "restored"]


@dataclass(frozen=True)
class Note:
    """What is told of one message."""

    reason: str
    exchange: str | None
    """Where it was bound for, in words of AMQP; None: only ``destination`` is known."""
    routing_key: str
    destination: str
    """The same for people."""
    at: int | None
    """When it was parked, ms since 1970; None: that is not told."""
    size: int


def note_of(delivery: Delivery) -> Note:
    return noted(_told(delivery[3]), delivery[4])


def noted(told: Mapping[str, object], size: int) -> Note:
    """From the headers, without `PARKED`."""
    exchange, key = told.get("exchange"), str(told.get("routing-key", ""))
    at = told.get("at")
    destination = str(told.get("destination", "?"))
    if isinstance(exchange, str):
        destination = f"exchange://{exchange}/{key}" if exchange else f"queue://{key}"
    return Note(
        str(told.get("reason", "")),
        exchange if isinstance(exchange, str) else None,
        key,
        destination,
        _whole(at),
        size,
    )


def _whole(at: object) -> int | None:
    """Python reads no more than some thousand digits."""
    try:
        return int(at) if isinstance(at, int | str) and str(at).isdecimal() else None
    except ValueError:
        return None


def restored(delivery: Delivery, exchange: str, routing_key: str, now: int) -> Parcel:
    """The message as it was before, bound for there; ``now`` is ms since 1970.

    Raises ValueError for properties that cannot be read, or written.
    """
    _, _, _, raw, size, frames = delivery
    told = _told(raw)
    kept = told.get("properties")
    if isinstance(kept, bytes):
        raw = kept
    else:
        for name in told:
            raw = remove_header(raw, PARKED + name)
        deadline, expiration = told.get("deadline"), told.get("expiration")
        if isinstance(deadline, str) and deadline.isdecimal():
            expiration = str(max(0, int(deadline) - now))
        if isinstance(expiration, str):
            raw = patch(raw, {"expiration": expiration})
    return (encode_publish(exchange, routing_key), content_header(raw, size), frames, size)


def _told(raw: bytes) -> Mapping[str, Value]:
    try:
        headers = read(raw).get("headers")
    except WireError:
        return {}
    if not isinstance(headers, dict):
        return {}
    return {
        name.removeprefix(PARKED): value
        for name, value in headers.items()
        if name.startswith(PARKED)
    }
