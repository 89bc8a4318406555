"""Decodes the properties of a message, also where pika's own decoding fails.

A timestamp header after the year 9999 (one in milliseconds) is a ValueError in pika, and would
cost the connection each time that the message is delivered. Such a value is given as a number.
"""

from __future__ import annotations

import struct
from typing import Any

from pika import data, spec

__all__ = ["decoded_properties"]

SIZE = struct.Struct(">I")
NUMBER = struct.Struct(">Q")
FLAGS = struct.Struct(">H")


def decoded_properties(encoded: bytes) -> Any:
    """Raises what pika's codec raises for bytes that make no sense at all."""
    properties = spec.BasicProperties()
    try:
        properties.decode(encoded)
    except (ValueError, OverflowError, OSError):
        return _decoded_apart(encoded)
    return properties


def _decoded_apart(encoded: bytes) -> Any:
    """Everything but the headers by pika, these value by value."""
    (flags,) = FLAGS.unpack_from(encoded)
    begin = FLAGS.size
    for flag in (
        spec.BasicProperties.FLAG_CONTENT_TYPE,
        spec.BasicProperties.FLAG_CONTENT_ENCODING,
    ):
        if flags & flag:
            begin += 1 + encoded[begin]
    if not flags & spec.BasicProperties.FLAG_HEADERS:
        raise ValueError("properties that can't be decoded")
    headers, end = _table(encoded, begin)
    properties = spec.BasicProperties()
    without = FLAGS.pack(flags & ~spec.BasicProperties.FLAG_HEADERS)
    properties.decode(without + encoded[FLAGS.size : begin] + encoded[end:])
    properties.headers = headers
    return properties


def _table(encoded: bytes, position: int) -> tuple[dict[str, Any], int]:
    end = position + SIZE.size + SIZE.unpack_from(encoded, position)[0]
    position += SIZE.size
    table = {}
    while position < end:
        name, position = data.decode_short_string(encoded, position)
        table[name], position = _value(encoded, position)
    return table, end


def _value(encoded: bytes, position: int) -> tuple[Any, int]:
    kind, inside = encoded[position : position + 1], position + 1
    if kind == b"F":
        return _table(encoded, inside)
    try:
        value, position = data.decode_value(encoded, position)
    except (ValueError, OverflowError, OSError):
        if kind != b"T":
            raise
        return NUMBER.unpack_from(encoded, inside)[0], inside + NUMBER.size
    return value, position
