"""The methods of AMQP 0-9-1 that a bridge uses: their arguments from and to bytes, and frames.

A frame is ``type(1) channel(2) size(4) payload(size) 0xCE``; a method's payload is its class, its
id and its arguments. Arguments are written as one letter each: ``o`` octet, ``h`` 16 bits, ``l`` 32
bits, ``q`` 64 bits, ``s`` short string, ``S`` long string (bytes), ``F`` table, ``b`` the last
octet, which holds bits.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.tables import decode_table, encode_table

__all__ = [
    "CHANNEL",
    "CLASS_BASIC",
    "FRAME_BODY",
    "FRAME_END",
    "FRAME_HEADER",
    "FRAME_HEARTBEAT",
    "FRAME_METHOD",
    "HEARTBEAT",
    "OVERHEAD",
    "PREFIX",
    "Method",
    "decode_arguments",
    "encode_frame",
    "encode_look",
    "encode_method",
    "encode_publish",
    "read_short",
    "split_route",
]

_PASSIVE = 0b1  # of queue.declare
CHANNEL: Final = 1
"""The one channel that both ends of a bridge use, so that body frames go through as they are."""

FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END: Final = 0xCE
OVERHEAD: Final = 8  # bytes of a frame that are not payload
CLASS_BASIC: Final = 60
PREFIX = struct.Struct(">BHI")

_IDS = struct.Struct(">HH")
_LENGTH = struct.Struct(">I")
_INTEGERS = {"o": 1, "h": 2, "l": 4, "q": 8, "b": 1}
_MANDATORY = 1


class Method:
    """Class and id of each method as one number, class << 16 | id."""

    CONNECTION_START = 10 << 16 | 10
    CONNECTION_START_OK = 10 << 16 | 11
    CONNECTION_SECURE = 10 << 16 | 20
    CONNECTION_TUNE = 10 << 16 | 30
    CONNECTION_TUNE_OK = 10 << 16 | 31
    CONNECTION_OPEN = 10 << 16 | 40
    CONNECTION_OPEN_OK = 10 << 16 | 41
    CONNECTION_CLOSE = 10 << 16 | 50
    CONNECTION_CLOSE_OK = 10 << 16 | 51
    CONNECTION_BLOCKED = 10 << 16 | 60
    CONNECTION_UNBLOCKED = 10 << 16 | 61
    CHANNEL_OPEN = 20 << 16 | 10
    CHANNEL_OPEN_OK = 20 << 16 | 11
    CHANNEL_CLOSE = 20 << 16 | 40
    CHANNEL_CLOSE_OK = 20 << 16 | 41
    QUEUE_DECLARE = 50 << 16 | 10
    QUEUE_DECLARE_OK = 50 << 16 | 11
    QUEUE_BIND = 50 << 16 | 20
    QUEUE_BIND_OK = 50 << 16 | 21
    QUEUE_DELETE = 50 << 16 | 40
    QUEUE_DELETE_OK = 50 << 16 | 41
    BASIC_QOS = 60 << 16 | 10
    BASIC_QOS_OK = 60 << 16 | 11
    BASIC_CONSUME = 60 << 16 | 20
    BASIC_CONSUME_OK = 60 << 16 | 21
    BASIC_CANCEL = 60 << 16 | 30
    BASIC_CANCEL_OK = 60 << 16 | 31
    BASIC_PUBLISH = 60 << 16 | 40
    BASIC_RETURN = 60 << 16 | 50
    BASIC_DELIVER = 60 << 16 | 60
    BASIC_ACK = 60 << 16 | 80
    BASIC_NACK = 60 << 16 | 120
    CONFIRM_SELECT = 85 << 16 | 10
    CONFIRM_SELECT_OK = 85 << 16 | 11


ARGUMENTS: Final = {
    Method.CONNECTION_START: "ooFSS",
    Method.CONNECTION_START_OK: "FsSs",
    Method.CONNECTION_SECURE: "S",
    Method.CONNECTION_TUNE: "hlh",
    Method.CONNECTION_TUNE_OK: "hlh",
    Method.CONNECTION_OPEN: "ssb",
    Method.CONNECTION_OPEN_OK: "s",
    Method.CONNECTION_CLOSE: "hshh",
    Method.CONNECTION_CLOSE_OK: "",
    Method.CONNECTION_BLOCKED: "s",
    Method.CONNECTION_UNBLOCKED: "",
    Method.CHANNEL_OPEN: "s",
    Method.CHANNEL_OPEN_OK: "S",
    Method.CHANNEL_CLOSE: "hshh",
    Method.CHANNEL_CLOSE_OK: "",
    Method.QUEUE_DECLARE: "hsbF",
    Method.QUEUE_DECLARE_OK: "sll",
    Method.QUEUE_BIND: "hsssbF",
    Method.QUEUE_BIND_OK: "",
    Method.QUEUE_DELETE: "hsb",
    Method.QUEUE_DELETE_OK: "l",
    Method.BASIC_QOS: "lhb",
    Method.BASIC_QOS_OK: "",
    Method.BASIC_CONSUME: "hssbF",
    Method.BASIC_CONSUME_OK: "s",
    Method.BASIC_CANCEL: "sb",
    Method.BASIC_CANCEL_OK: "s",
    Method.BASIC_RETURN: "hsss",
    Method.BASIC_DELIVER: "sqoss",
    Method.BASIC_ACK: "qb",
    Method.BASIC_NACK: "qb",
    Method.CONFIRM_SELECT: "b",
    Method.CONFIRM_SELECT_OK: "",
}


def encode_frame(kind: int, channel: int, payload: bytes) -> bytes:
    """The bytes of one frame."""
    return b"%b%b\xce" % (PREFIX.pack(kind, channel, len(payload)), payload)


HEARTBEAT: Final = encode_frame(FRAME_HEARTBEAT, 0, b"")


def encode_method(method: int, *arguments: Any, channel: int = CHANNEL) -> bytes:
    """The frame of a method; ValueError where an argument cannot be written."""
    pieces = [_IDS.pack(method >> 16, method & 0xFFFF)]
    for letter, value in zip(ARGUMENTS[method], arguments, strict=True):
        if letter in _INTEGERS:
            pieces.append(int(value).to_bytes(_INTEGERS[letter], "big"))
        elif letter == "s":
            pieces.append(_short(value))
        else:
            content = encode_table(value) if letter == "F" else bytes(value)
            pieces.append(_LENGTH.pack(len(content)) + content)
    return encode_frame(FRAME_METHOD, channel, b"".join(pieces))


def encode_look(queue: str) -> bytes:
    """A queue.declare that makes nothing: its answer tells whether the queue is there, and how many
    messages wait."""
    return encode_method(Method.QUEUE_DECLARE, 0, queue, _PASSIVE, {})


def encode_publish(exchange: str, routing_key: str) -> bytes:
    """The method frame of a mandatory publish; what it costs is paid once for each destination."""
    payload = b"%b\0\0%b%b%c" % (
        _IDS.pack(Method.BASIC_PUBLISH >> 16, Method.BASIC_PUBLISH & 0xFFFF),
        _short(exchange),
        _short(routing_key),
        _MANDATORY,
    )
    return encode_frame(FRAME_METHOD, CHANNEL, payload)


def decode_arguments(method: int, payload: bytes) -> list[Any]:
    """The arguments behind class and id; raises WireError where they are not whole."""
    values: list[Any] = []
    at = _IDS.size
    for letter in ARGUMENTS[method]:
        if letter in _INTEGERS:
            end = at + _INTEGERS[letter]
            values.append(int.from_bytes(payload[at:end], "big"))
        elif letter == "s":
            text, end = read_short(payload, at)
            values.append(text)
        else:
            end = at + 4 + int.from_bytes(payload[at : at + 4], "big")
            content = payload[at + 4 : end]
            values.append(decode_table(content) if letter == "F" else content)
        if end > len(payload):
            raise WireError(f"method {method >> 16}.{method & 0xFFFF} ends within its arguments")
        at = end
    return values


def split_route(route: bytes) -> tuple[str, str]:
    """Exchange and routing key of two short strings; raises WireError."""
    exchange, at = read_short(route, 0)
    routing_key, end = read_short(route, at)
    if end != len(route):
        raise WireError("a delivery does not end behind its routing key")
    return exchange, routing_key


def read_short(payload: bytes, at: int) -> tuple[str, int]:
    """A short string and where it ends; raises WireError."""
    end = at + 1 + payload[at] if at < len(payload) else at + 1
    if end > len(payload):
        raise WireError("a frame ends within a short string")
    return payload[at + 1 : end].decode("utf-8", "surrogateescape"), end


def _short(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) > 255:
        raise ValueError(f"{text[:40]!r}... has {len(raw)} bytes; AMQP takes 255")
    return bytes([len(raw)]) + raw
