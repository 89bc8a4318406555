"""A delivery as bytes for the disk, and back. No I/O.

Rules
* What the link needs is kept as it came: of AMQP the raw properties and body frames, of STOMP all
  headers and the body. Tags are not: they end with the connection.
* A time to live that counts from when a broker gets the message is bound to the time it came here
  (`mapping.times`), so that the time on disk is spent.
* How often its queue had delivered a message in vain (`worn`) is not kept: it is in no queue now.
* Who wrote them is kept with them: the kind of broker, the largest frame that it may have sent, and
  a series, in which a number stands for one record, for good.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final, NamedTuple

from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import (
    ACTIVEMQ,
    ARTEMIS,
    RABBITMQ_AMQP,
    RABBITMQ_STOMP,
    Dialect,
    Expiry,
)
from understudyd.bridge.mapping.headers import DEADLINE
from understudyd.bridge.mapping.times import deadline_header, deadline_of, expiration_of
from understudyd.bridge.spool.port import SpoolFailed
from understudyd.bridge.wire.bodies import body_frames, join_body
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.properties import get, get_header, patch, set_header
from understudyd.bridge.worn import COUNT, fresh

__all__ = ["Meta", "decode", "decode_meta", "encode", "encode_meta"]

DIALECTS: Final = {
    dialect.name: dialect for dialect in (RABBITMQ_AMQP, RABBITMQ_STOMP, ACTIVEMQ, ARTEMIS)
}
_HAS_EXPIRATION: Final = 0x01  # in the first byte of the flags
_SECOND: Final = 1000
_amqp = struct.Struct(">BHIQ")  # redelivered, length of the route, of the properties, of the body
_stomp = struct.Struct(">I")  # length of the headers


class Meta(NamedTuple):
    """Of all records of a segment."""

    dialect: Dialect
    frame_max: int
    series: str


def encode_meta(dialect: Dialect, frame_max: int, series: str) -> bytes:
    told = {"dialect": dialect.name, "frame_max": frame_max, "series": series}
    return json.dumps(told).encode()


def decode_meta(raw: bytes) -> Meta:
    """Raises SpoolFailed for what another version wrote."""
    told = json.loads(raw)
    if (dialect := DIALECTS.get(told["dialect"])) is None:
        raise SpoolFailed(f"it holds messages of {told['dialect']!r}, which is not known here")
    return Meta(dialect, told["frame_max"], told["series"])


def encode(delivery: Any, dialect: Dialect, now: int) -> bytes:
    """``now`` is milliseconds since 1970."""
    if dialect.is_amqp:
        _, redelivered, route, raw, size, frames = delivery
        raw = _unworn(raw)
        if raw and raw[0] & _HAS_EXPIRATION:
            raw = _bound(raw, now)
        head = _amqp.pack(redelivered, len(route), len(raw), size)
        return b"".join((head, route, raw, frames))
    content: StompContent = delivery[1]
    headers = {name: text for name, text in content.headers.items() if name != COUNT}
    if dialect.expiry is Expiry.RELATIVE:
        headers = _bound_headers(headers, dialect, now)
    told = json.dumps(headers).encode()
    return b"".join((_stomp.pack(len(told)), told, content.body))


def decode(tag: int, payload: bytes, meta: Meta, frame_max: int, *, is_again: bool = False) -> Any:
    """The delivery again; no frame of its body is larger than ``frame_max`` bytes. ``is_again``: it
    may have been given before, which is said as a broker says it."""
    if not meta.dialect.is_amqp:
        (length,) = _stomp.unpack_from(payload)
        at = _stomp.size + length
        headers = json.loads(payload[_stomp.size : at])
        if is_again:
            headers["redelivered"] = "true"
        return tag, StompContent(headers, payload[at:])
    redelivered, route, properties, size = _amqp.unpack_from(payload)
    at = _amqp.size + route
    end = at + properties
    frames = payload[end:]
    if frame_max < meta.frame_max and len(frames) > frame_max:
        frames = body_frames(join_body(frames), frame_max)
    redelivered |= is_again
    return tag, redelivered, payload[_amqp.size : at], payload[at:end], size, frames


def _unworn(raw: bytes) -> bytes:
    try:
        return fresh(raw)
    except WireError:
        return raw  # whoever reads it is told


def _bound(raw: bytes, now: int) -> bytes:
    """The properties with the moment at which they expire."""
    try:
        expiration, header = get(raw, "expiration"), get_header(raw, DEADLINE)
        stamp = get(raw, "timestamp")
        left = expiration_of(expiration) if isinstance(expiration, str) else None
        if left is None:
            return raw
        deadline = deadline_of(
            str(left),
            header if isinstance(header, str) else None,
            stamp * _SECOND if isinstance(stamp, int) else None,
            now,
        )
        assert deadline is not None
        said = patch(raw, {"expiration": str(left)})
        return set_header(said, DEADLINE, deadline_header(deadline, left))
    except (WireError, ValueError):
        return raw  # whoever reads it is told


def _bound_headers(headers: dict[str, str], dialect: Dialect, now: int) -> dict[str, str]:
    assert dialect.stomp is not None
    expiration = headers.get(dialect.stomp.expiry)
    left = expiration_of(expiration) if expiration is not None else None
    if left is None:
        return headers
    stamp = expiration_of(headers.get("timestamp", ""))
    at = None if stamp is None else stamp * dialect.stomp.timestamp_unit
    deadline = deadline_of(str(left), headers.get(DEADLINE), at, now)
    assert deadline is not None
    said = {dialect.stomp.expiry: str(left), DEADLINE: deadline_header(deadline, left)}
    return {**headers, **said}
