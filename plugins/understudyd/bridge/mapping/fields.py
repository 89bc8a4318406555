"""All properties of an AMQP message at once, headers as text: what `wire.properties` reads and
patches one by one, read and written whole in a third of the time.

Values that are no strings repeat from message to message (a void, a small number), so those of few
bytes are remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

from understudyd.bridge.mapping.values import STRING, from_text, to_text
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.properties import FIELDS
from understudyd.bridge.wire.tables import decode_value, encode_value, entries

__all__ = ["read_fields", "read_headers", "write_fields", "write_headers"]

_FLAGS = tuple((0x8000 >> place, name, kind) for place, (name, kind) in enumerate(FIELDS.items()))
_LENGTH = struct.Struct(">I")
_STAMP = struct.Struct(">Q")
_STRING_LETTER = ord(STRING)
_MAX_SHORT = 255  # bytes of a short string
_REMEMBERED = 24  # bytes of a value that is worth it

_unpack_length = _LENGTH.unpack_from
_pack_length = _LENGTH.pack


def read_fields(raw: bytes) -> tuple[dict[str, str], dict[str, int], bytes]:
    """The properties that are text, those that are numbers, and the content of the headers.

    Raises WireError.
    """
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    table = b""
    at = 2
    try:
        for name, kind in _layout(raw[0] << 8 | raw[1]):
            if kind == "s":
                end = at + 1 + raw[at]
                texts[name] = raw[at + 1 : end].decode("utf-8", "surrogateescape")
            elif kind == "B":
                end = at + 1
                numbers[name] = raw[at]
            elif kind == "F":
                end = at + 4 + _unpack_length(raw, at)[0]
                table = raw[at + 4 : end]
            else:
                end = at + 8
                (numbers[name],) = _STAMP.unpack_from(raw, at)
            at = end
    except (IndexError, struct.error) as error:
        raise WireError(f"{len(raw)} bytes are no properties") from error
    if at != len(raw):
        raise WireError(f"the properties have {len(raw)} bytes, their fields {at}")
    return texts, numbers, table


def read_headers(table: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """The text of each header, and the kinds of those that are no strings; raises WireError."""
    headers: dict[str, str] = {}
    types: dict[str, str] = {}
    for count, (raw, _, at, end) in enumerate(entries(table), 1):
        name = raw.decode("utf-8", "surrogateescape")
        if table[at] == _STRING_LETTER:
            headers[name] = table[at + 5 : end].decode("utf-8", "surrogateescape")
        else:
            value = table[at:end]
            headers[name], types[name] = (
                _remembered_text(value) if end - at <= _REMEMBERED else _text(value)
            )
        if len(headers) != count:
            raise WireError(f"the headers have the name {name!r} twice")
    return headers, types


def write_fields(
    texts: Mapping[str, str], numbers: Mapping[str, int | None], table: bytes
) -> bytes:
    """The properties; a number of None is left out. Raises ValueError for what does not fit."""
    flags = 0
    parts: list[bytes] = []
    for flag, name, kind in _FLAGS:
        if kind == "s":
            text = texts.get(name)
            if text is not None:
                raw = text.encode("utf-8", "surrogateescape")
                if len(raw) > _MAX_SHORT:
                    raise ValueError(f"{name} has {len(raw)} bytes; AMQP takes {_MAX_SHORT}")
                flags |= flag
                parts += (bytes((len(raw),)), raw)
        elif kind == "F":
            if table:
                flags |= flag
                parts += (_pack_length(len(table)), table)
        elif (number := numbers.get(name)) is not None:
            flags |= flag
            parts.append(bytes((number,)) if kind == "B" else _STAMP.pack(number))
    return b"".join((flags.to_bytes(2, "big"), *parts))


def write_headers(headers: Mapping[str, str], types: Mapping[str, str]) -> bytes:
    """The content of a table; a text that its kinds do not fit is a string: somebody changed it.

    Raises ValueError for a name that does not fit.
    """
    parts: list[bytes] = []
    for name, text in headers.items():
        raw = name.encode("utf-8", "surrogateescape")
        if len(raw) > _MAX_SHORT:
            raise ValueError(f"a header's name has {len(raw)} bytes; AMQP takes {_MAX_SHORT}")
        kinds = types.get(name)
        if kinds is None:
            value = text.encode("utf-8", "surrogateescape")
            parts += (bytes((len(raw),)), raw, b"S", _pack_length(len(value)), value)
        else:
            value = (
                _remembered_value(text, kinds) if len(text) <= _REMEMBERED else _value(text, kinds)
            )
            parts += (bytes((len(raw),)), raw, value)
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _layout(flags: int) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for flag, name, kind in _FLAGS if flags & flag)


def _text(value: bytes) -> tuple[str, str]:
    return to_text(decode_value(value))


def _value(text: str, kinds: str) -> bytes:
    try:
        return encode_value(from_text(text, kinds))
    except ValueError:
        return encode_value(text)


_remembered_text = lru_cache(maxsize=4096)(_text)
_remembered_value = lru_cache(maxsize=4096)(_value)
