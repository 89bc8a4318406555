"""AMQP field tables, both ways and without loss: what was decoded encodes to the same bytes.

The types are those of RabbitMQ (its "Protocol Errata" page, section 3), and `L` and `U` of the
specification, which it does not use. In Python:

    ======= ================== =====================================================
    wire    type               value
    ======= ================== =====================================================
    t       boolean            bool
    I       int32              int
    l       int64              int beyond 32 bits, else `Typed`
    d       double             float
    D       decimal            decimal.Decimal; its exponent is the scale
    S       long string        str; bytes that are no UTF-8 become lone surrogates
    x       byte array         bytes
    V       void               None
    F       table              dict
    A       array              list
    others  b B s u i f T L U  `Typed`: the letter and the number
    ======= ================== =====================================================

Rules
* `Typed` tags what has no Python type of its own: an int8, a float32, a timestamp (seconds, beyond
  the year 9999 too).
* A value that Python would write differently (a boolean of 7, a float32 NaN with a payload, a
  nested table that has a name twice) is `Typed` with its raw bytes.
* Any bytes either decode or raise `WireError`; no input recurses deeper than `MAX_DEPTH`.
* Tables are their content: the four bytes of length before it belong to what holds the table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple, TypeAlias, Union

from understudyd.bridge.wire.errors import WireError

__all__ = [
    "MAX_DEPTH",
    "Table",
    "Typed",
    "Value",
    "decode_table",
    "decode_value",
    "encode_entry",
    "encode_table",
    "encode_value",
    "entries",
]

MAX_DEPTH = 100  # tables and arrays within one another
MAX_NAME = 255  # bytes


class Typed(NamedTuple):
    """A value with its type on the wire, where Python's own type would not tell."""

    kind: str
    """The letter of the type."""
    value: int | float | bytes
    """The number, or the raw bytes where only they give the same bytes again."""


Value: TypeAlias = Union[
    bool, int, float, str, bytes, Decimal, Typed, "list[Value]", "dict[str, Value]", None
]
Table: TypeAlias = "dict[str, Value]"

_NUMBERS = {
    "t": struct.Struct(">B"),
    "b": struct.Struct(">b"),
    "B": struct.Struct(">B"),
    "s": struct.Struct(">h"),
    "U": struct.Struct(">h"),
    "u": struct.Struct(">H"),
    "I": struct.Struct(">i"),
    "i": struct.Struct(">I"),
    "l": struct.Struct(">q"),
    "L": struct.Struct(">q"),
    "T": struct.Struct(">Q"),
    "f": struct.Struct(">f"),
    "d": struct.Struct(">d"),
}
_DECIMAL = struct.Struct(">Bi")
_LENGTH = struct.Struct(">I")
_SIZES = {ord(kind): number.size for kind, number in _NUMBERS.items()}
_SIZES |= {ord("D"): _DECIMAL.size, ord("V"): 0}
_SIZED = frozenset(b"SxFA")  # begin with their length
_INT32 = range(-(1 << 31), 1 << 31)
_INT64 = range(-(1 << 63), 1 << 63)


def decode_table(content: bytes) -> Table:
    """The values of a table by name; raises WireError, also for a name that comes twice."""
    return _table(content, 1)


def decode_value(raw: bytes) -> Value:
    """The value of a type letter and what belongs to it; raises WireError."""
    if _end_of_value(raw, 0) != len(raw):
        raise WireError(f"{len(raw)} bytes hold more than one value")
    return _value(raw, 0)


def encode_table(table: Table) -> bytes:
    """A table's content; raises ValueError for what AMQP cannot say, naming the entry."""
    return b"".join([encode_entry(name, value) for name, value in table.items()])


def encode_entry(name: str, value: Value) -> bytes:
    """One name and its value as they stand in a table; raises ValueError as `encode_table`."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > MAX_NAME:
        raise ValueError(f"the name {name[:40]!r}... has {len(raw)} bytes; AMQP takes {MAX_NAME}")
    try:
        return bytes([len(raw)]) + raw + encode_value(value)
    except (ValueError, struct.error) as error:
        raise ValueError(f"{name!r} cannot be written: {error}") from error


def encode_value(value: Value) -> bytes:
    """A value with its type letter; raises ValueError for what AMQP cannot say."""
    if isinstance(value, Typed):
        return _encode_typed(value)
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t\1" if value else b"t\0"
    if isinstance(value, int):
        return _encode_int(value)
    if isinstance(value, float):
        return b"d" + _NUMBERS["d"].pack(value)
    if isinstance(value, str):
        return _sized(b"S", value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        return _sized(b"x", value)
    if isinstance(value, Decimal):
        return _encode_decimal(value)
    if isinstance(value, dict):
        return _sized(b"F", encode_table(value))
    if isinstance(value, list):
        return _sized(b"A", b"".join([encode_value(item) for item in value]))
    raise ValueError(f"a {type(value).__name__} has no type in AMQP")


def entries(content: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Walk a table without decoding it: name, where the entry begins, its value begins, it ends.

    Raises WireError where the table is not whole.
    """
    at = 0
    while at < len(content):
        value_at = at + 1 + content[at]
        if value_at >= len(content):
            raise WireError(f"a table ends within the name at byte {at}")
        end = _end_of_value(content, value_at)
        yield content[at + 1 : value_at], at, value_at, end
        at = end


def _end_of_value(content: bytes, at: int) -> int:
    """Where the value whose type letter is at ``at`` ends."""
    if at >= len(content):
        raise WireError(f"a value is missing at byte {at}")
    kind = content[at]
    size = _SIZES.get(kind)
    if size is None:
        if kind not in _SIZED:
            raise WireError(f"a value of the unknown type {bytes([kind])!r}")
        if at + 5 > len(content):
            raise WireError(f"the value at byte {at} ends within its length")
        size = 4 + _LENGTH.unpack_from(content, at + 1)[0]
    end: int = at + 1 + size
    if end > len(content):
        raise WireError(f"the value at byte {at} ends beyond what holds it")
    return end


def _table(content: bytes, depth: int) -> Table:
    table: Table = {}
    for count, (name, _, value_at, end) in enumerate(entries(content), 1):
        table[name.decode("utf-8", "surrogateescape")] = _value(content[value_at:end], depth)
        if len(table) != count:
            raise WireError(f"a table has the name {name!r} twice")
    return table


def _array(content: bytes, depth: int) -> list[Value]:
    values = []
    at = 0
    while at < len(content):
        end = _end_of_value(content, at)
        values.append(_value(content[at:end], depth))
        at = end
    return values


def _value(raw: bytes, depth: int) -> Value:
    """The value that ``raw``, letter and all, holds; its size is known to be right."""
    kind = chr(raw[0])
    if kind in "FA":
        return _nested(kind, raw[5:], depth + 1)
    value = _scalar(kind, raw)
    # Comparing bytes, not values: it is they that must come back, and NaN equals nothing.
    return value if encode_value(value) == raw else Typed(kind, raw[1:])


def _scalar(kind: str, raw: bytes) -> Value:
    if kind == "V":
        return None
    if kind == "S":
        return raw[5:].decode("utf-8", "surrogateescape")
    if kind == "x":
        return raw[5:]
    if kind == "D":
        scale, unscaled = _DECIMAL.unpack_from(raw, 1)
        return Decimal(f"{unscaled}E-{scale}")
    number: int | float = _NUMBERS[kind].unpack_from(raw, 1)[0]
    if kind == "t":
        return bool(number)
    if kind in "Id" or (kind == "l" and number not in _INT32):
        return number
    return Typed(kind, number)


def _nested(kind: str, content: bytes, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise WireError(f"tables and arrays nest deeper than {MAX_DEPTH}")
    if kind == "A":
        return _array(content, depth)
    names = [name for name, *_ in entries(content)]
    if len(set(names)) != len(names):
        return Typed("F", _LENGTH.pack(len(content)) + content)
    return _table(content, depth)


def _sized(kind: bytes, content: bytes) -> bytes:
    return kind + _LENGTH.pack(len(content)) + content


def _encode_int(value: int) -> bytes:
    if value in _INT32:
        return b"I" + _NUMBERS["I"].pack(value)
    if value in _INT64:
        return b"l" + _NUMBERS["l"].pack(value)
    raise ValueError(f"{value} does not fit into 64 bits")


def _encode_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"a decimal {value} has no form in AMQP")
    unscaled = int("".join(map(str, digits)) or "0") * (-1 if sign else 1)
    if exponent > 0:
        unscaled, exponent = unscaled * 10 ** min(exponent, 10), 0
    if -exponent > MAX_NAME or unscaled not in _INT32:
        raise ValueError(f"the decimal {value} needs more than 32 bits or 255 decimals")
    return b"D" + _DECIMAL.pack(-exponent, unscaled)


def _encode_typed(typed: Typed) -> bytes:
    letter = typed.kind.encode("ascii")
    if isinstance(typed.value, bytes):
        raw = letter + typed.value
        if _end_of_value(raw, 0) != len(raw):
            raise ValueError(f"{typed} is more than one value")
        return raw
    number = _NUMBERS.get(typed.kind)
    if number is None or typed.kind == "t":
        raise ValueError(f"{typed.kind!r} is not the letter of a number: {', '.join(_NUMBERS)}")
    return letter + number.pack(typed.value)
