"""The properties of a message as the bytes they are on the wire: two bytes of flags, then the
fields whose flag is set, in the order of `FIELDS` (AMQP 0-9-1, 4.2.6.1 and class basic).

Rules
* What is not asked for is neither decoded nor changed: a patch copies everything around it.
* The two lowest flags belong to no field of basic; they are ignored and kept, as RabbitMQ does.
* Short strings are str, those that are no UTF-8 with lone surrogates; the headers are a `Table`;
  delivery_mode, priority and timestamp (seconds) are int.
* Any bytes either parse or raise `WireError`; what cannot be written raises ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.tables import (
    Value,
    decode_table,
    decode_value,
    encode_entry,
    encode_table,
    entries,
)

__all__ = [
    "FIELDS",
    "append_entry",
    "build",
    "get",
    "get_header",
    "header_content",
    "patch",
    "read",
    "remove_header",
    "set_header",
]

FIELDS: Final = {
    "content_type": "s",
    "content_encoding": "s",
    "headers": "F",
    "delivery_mode": "B",
    "priority": "B",
    "correlation_id": "s",
    "reply_to": "s",
    "expiration": "s",
    "message_id": "s",
    "timestamp": "Q",
    "type": "s",
    "user_id": "s",
    "app_id": "s",
    "cluster_id": "s",
}
"""Each field and its kind: s short string, F table, B octet, Q 64 bits."""

_FLAGS = {name: 0x8000 >> place for place, name in enumerate(FIELDS)}
_KINDS = tuple((_FLAGS[name], name, kind) for name, kind in FIELDS.items())
_HEADERS = _FLAGS["headers"]
_UNUSED = 0b11
_FIXED = {"B": 1, "Q": 8}
_MAX_SHORT = 255

_SHORT = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
_unpack_length = _LENGTH.unpack_from
_pack_length = _LENGTH.pack


def read(raw: bytes) -> dict[str, Value]:
    """All fields that are set, by name."""
    return {name: _decode(name, raw[at:end]) for name, (at, end) in _spans(raw).items()}


def get(raw: bytes, field: str) -> Value:
    """One field; None when it is not set."""
    span = _spans(raw).get(field)
    return _decode(field, raw[slice(*span)]) if span else None


def build(fields: Mapping[str, Value]) -> bytes:
    """The bytes of these fields; one of None is left out."""
    return patch(b"\0\0", fields)


def patch(raw: bytes, fields: Mapping[str, Value]) -> bytes:
    """Set the fields given, remove those that are None; the others keep their bytes."""
    if unknown := fields.keys() - FIELDS.keys():
        raise ValueError(f"no such property: {sorted(unknown)}; there are {', '.join(FIELDS)}")
    present = {name: raw[at:end] for name, (at, end) in _spans(raw).items()}
    for name, value in fields.items():
        present.pop(name, None)
        if value is not None:
            present[name] = _encode(name, value)
    flags = int.from_bytes(raw[:2], "big") & _UNUSED
    parts = []
    for name, flag in _FLAGS.items():
        if name in present:
            flags |= flag
            parts.append(present[name])
    return _SHORT.pack(flags) + b"".join(parts)


def header_content(raw: bytes) -> bytes:
    """The content of the headers' table as it stands; empty when there is none."""
    span = _spans(raw).get("headers")
    return raw[span[0] + 4 : span[1]] if span else b""


def get_header(raw: bytes, name: str, default: Value = None) -> Value:
    """One header, the first of that name; ``default`` when there is none."""
    wanted, content = _name(name), header_content(raw)
    for found, _, value_at, end in entries(content):
        if found == wanted:
            return decode_value(content[value_at:end])
    return default


def set_header(raw: bytes, name: str, value: Value) -> bytes:
    """Set one header where it stands, else at the end; the others keep bytes and order."""
    wanted, content, entry = _name(name), header_content(raw), encode_entry(name, value)
    pieces = []
    for found, at, _, end in entries(content):
        if found == wanted:
            pieces.append(entry)
            entry = b""  # of repeated ones the first is kept
        else:
            pieces.append(content[at:end])
    return _with_headers(raw, b"".join(pieces) + entry)


def remove_header(raw: bytes, name: str) -> bytes:
    """Remove one header, each time it comes; ``raw`` itself when there is none."""
    wanted, content = _name(name), header_content(raw)
    kept = [content[at:end] for found, at, _, end in entries(content) if found != wanted]
    left = b"".join(kept)
    return raw if left == content else _with_headers(raw, left)


def append_entry(raw: bytes, entry: bytes) -> bytes:
    """Add one entry (see `encode_entry`) at the end of the headers; the fast way.

    Nothing behind the headers is looked at, and it is not seen whether the name is there already.
    """
    try:
        flags = raw[0] << 8 | raw[1]
        at = 2
        if flags & 0x8000:
            at += 1 + raw[at]
        if flags & 0x4000:
            at += 1 + raw[at]
        if flags & _HEADERS:
            (length,) = _unpack_length(raw, at)
            end = at + 4 + length
            if end > len(raw):
                raise WireError("the headers end beyond the properties")
            size = _pack_length(length + len(entry))
            return b"".join((raw[:at], size, raw[at + 4 : end], entry, raw[end:]))
        if at > len(raw):
            raise WireError("a property ends beyond the others")
    except (IndexError, struct.error) as error:
        raise WireError(f"{len(raw)} bytes are no properties") from error
    size = _pack_length(len(entry))
    return b"".join((_SHORT.pack(flags | _HEADERS), raw[2:at], size, entry, raw[at:]))


def _spans(raw: bytes) -> dict[str, tuple[int, int]]:
    """Where each field that is set begins and ends."""
    if len(raw) < 2:
        raise WireError("properties without their flags")
    flags = int.from_bytes(raw[:2], "big")
    spans = {}
    at = 2
    for flag, name, kind in _KINDS:
        if flags & flag:
            end = at + _size(raw, at, kind)
            spans[name] = (at, end)
            at = end
    if at != len(raw):
        raise WireError(f"the properties have {len(raw)} bytes, their fields {at}")
    return spans


def _size(raw: bytes, at: int, kind: str) -> int:
    if kind in _FIXED:
        return _FIXED[kind]
    if at >= len(raw) or (kind == "F" and at + 4 > len(raw)):
        raise WireError("a property ends within its length")
    length: int = _unpack_length(raw, at)[0] + 3 if kind == "F" else raw[at]
    return 1 + length


def _decode(name: str, raw: bytes) -> Value:
    kind = FIELDS[name]
    if kind == "s":
        return raw[1:].decode("utf-8", "surrogateescape")
    return decode_table(raw[4:]) if kind == "F" else int.from_bytes(raw, "big")


def _encode(name: str, value: Value) -> bytes:
    kind = FIELDS[name]
    if kind == "s" and isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
        if len(raw) > _MAX_SHORT:
            raise ValueError(f"{name} has {len(raw)} bytes; AMQP takes {_MAX_SHORT}")
        return bytes([len(raw)]) + raw
    if kind == "F" and isinstance(value, dict):
        content = encode_table(value)
        return _pack_length(len(content)) + content
    if kind in _FIXED and isinstance(value, int):
        try:
            return value.to_bytes(_FIXED[kind], "big")
        except OverflowError:
            raise ValueError(f"{name} cannot be {value}: {8 * _FIXED[kind]} bits") from None
    wanted = {"s": "text", "F": "a table"}.get(kind, "a whole number")
    raise ValueError(f"{name} cannot be a {type(value).__name__}; it is {wanted}")


def _name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _with_headers(raw: bytes, content: bytes) -> bytes:
    """Put another table in; the field goes when that is empty and goes in when it was missing."""
    spans = _spans(raw)
    flags = int.from_bytes(raw[:2], "big")
    if "headers" in spans:
        at, end = spans["headers"]
    else:
        before = [spans[name][1] for name in ("content_type", "content_encoding") if name in spans]
        at = end = max(before, default=2)
    if not content:
        return _SHORT.pack(flags & ~_HEADERS) + raw[2:at] + raw[end:]
    size = _pack_length(len(content))
    return _SHORT.pack(flags | _HEADERS) + raw[2:at] + size + content + raw[end:]
