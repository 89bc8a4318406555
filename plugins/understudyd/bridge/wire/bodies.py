"""A body as raw frames, as it travels, and as bytes, as it is looked at."""

from __future__ import annotations

import struct

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import (
    CHANNEL,
    CLASS_BASIC,
    FRAME_BODY,
    FRAME_HEADER,
    OVERHEAD,
    PREFIX,
    encode_frame,
)

__all__ = ["body_frames", "content_header", "join_body"]

_HEADER = struct.Struct(">BHIHHQ")
_CLASS_AND_SIZE = 12  # bytes of a header's payload before the properties


def content_header(properties: bytes, size: int) -> bytes:
    """The header frame of a message."""
    length = _CLASS_AND_SIZE + len(properties)
    head = _HEADER.pack(FRAME_HEADER, CHANNEL, length, CLASS_BASIC, 0, size)
    return b"%b%b\xce" % (head, properties)


def body_frames(body: bytes, frame_max: int) -> bytes:
    """The frames of a body, none larger than ``frame_max`` bytes; nothing for an empty one."""
    step = frame_max - OVERHEAD
    if len(body) <= step:
        return encode_frame(FRAME_BODY, CHANNEL, body) if body else b""
    pieces = (body[at : at + step] for at in range(0, len(body), step))
    return b"".join([encode_frame(FRAME_BODY, CHANNEL, piece) for piece in pieces])


def join_body(frames: bytes) -> bytes:
    """The body that frames hold; raises WireError where they are not whole."""
    pieces = []
    at = 0
    while at < len(frames):
        if len(frames) - at < OVERHEAD:
            raise WireError("body frames end within a frame")
        kind, _, length = PREFIX.unpack_from(frames, at)
        end = at + PREFIX.size + length
        if kind != FRAME_BODY or end >= len(frames):
            raise WireError("body frames are cut or mixed with others")
        pieces.append(frames[at + PREFIX.size : end])
        at = end + 1
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
