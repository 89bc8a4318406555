"""AMQP field tables: what is decoded encodes to the same bytes, and any bytes are survived."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from typing import Any

import pytest
from amqp.serialization import loads
from hypothesis import given
from hypothesis import strategies as st
from pika import data as pika_data

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.tables import (
    MAX_DEPTH,
    Table,
    Typed,
    Value,
    decode_table,
    decode_value,
    encode_entry,
    encode_table,
    encode_value,
    entries,
)

SIZES = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "U": 2, "I": 4, "i": 4, "l": 8, "L": 8}
SIZES |= {"f": 4, "d": 8, "D": 5, "T": 8, "V": 0}


def sized(letter: bytes, content: bytes) -> bytes:
    return letter + struct.pack(">I", len(content)) + content


def entry(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + value


#: every value on the wire: each scalar of any bits, strings of any bytes, and nested ones
SCALARS = st.one_of(
    *(
        st.binary(min_size=size, max_size=size).map(kind.encode().__add__)
        for kind, size in SIZES.items()
    ),
    st.binary(max_size=12).map(lambda raw: sized(b"S", raw)),
    st.binary(max_size=12).map(lambda raw: sized(b"x", raw)),
)


def nested(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    fields = st.tuples(st.binary(max_size=3), values)
    return st.one_of(
        st.lists(values, max_size=4).map(lambda items: sized(b"A", b"".join(items))),
        st.lists(fields, max_size=4).map(
            lambda items: sized(b"F", b"".join(entry(*item) for item in items))
        ),
    )


WIRE_VALUES = st.recursive(SCALARS, nested, max_leaves=10)
WIRE_TABLES = st.dictionaries(st.binary(max_size=20), WIRE_VALUES, max_size=6).map(
    lambda fields: b"".join(entry(name, value) for name, value in fields.items())
)


@given(WIRE_TABLES)
def test_any_table_comes_back_byte_for_byte(content: bytes) -> None:
    assert encode_table(decode_table(content)) == content


@given(WIRE_VALUES)
def test_any_value_comes_back_byte_for_byte(raw: bytes) -> None:
    assert encode_value(decode_value(raw)) == raw


@given(WIRE_TABLES)
def test_walking_a_table_finds_the_entries_that_decoding_finds(content: bytes) -> None:
    found = {
        name.decode("utf-8", "surrogateescape"): content[value_at:end]
        for name, _, value_at, end in entries(content)
    }
    decoded = decode_table(content)
    assert list(found) == list(decoded)
    assert {name: encode_value(value) for name, value in decoded.items()} == found


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_raise_the_one_error(content: bytes) -> None:
    try:
        decoded = decode_table(content)
    except WireError:
        return
    assert encode_table(decoded) == content


@given(WIRE_TABLES, st.data())
def test_a_damaged_table_decodes_or_raises_the_one_error(content: bytes, data: Any) -> None:
    if not content:
        return
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = content[:at] + data.draw(st.binary(max_size=3)) + content[at + 1 :]
    try:
        decoded = decode_table(damaged)
    except WireError:
        return
    assert encode_table(decoded) == damaged


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"t\1", True),
        (b"t\7", Typed("t", b"\7")),
        (b"b\xff", Typed("b", -1)),
        (b"B\xff", Typed("B", 255)),
        (b"s\xff\xfe", Typed("s", -2)),
        (b"u\xff\xfe", Typed("u", 65534)),
        (b"I\xff\xff\xff\xff", -1),
        (b"i\xff\xff\xff\xff", Typed("i", 4294967295)),
        (b"l" + struct.pack(">q", -(1 << 63)), -(1 << 63)),
        (b"l" + struct.pack(">q", 5), Typed("l", 5)),
        (b"d" + struct.pack(">d", 1.75), 1.75),
        (b"f" + struct.pack(">f", 1.75), Typed("f", 1.75)),
        (b"f\x7f\x80\x00\x01", Typed("f", b"\x7f\x80\x00\x01")),  # a signalling NaN
        (b"D\2" + struct.pack(">i", -150), Decimal("-1.50")),
        (b"T" + struct.pack(">Q", 1790000000000), Typed("T", 1790000000000)),  # ms: year 58692
        (b"S\0\0\0\2\xc3\xa9", "é"),
        (b"S\0\0\0\1\xff", "\udcff"),
        (b"x\0\0\0\1\xff", b"\xff"),
        (b"V", None),
        (b"F\0\0\0\3\1aV", {"a": None}),
        (b"F\0\0\0\6\1aV\1aV", Typed("F", b"\0\0\0\6\1aV\1aV")),  # a name that comes twice
        (b"A\0\0\0\3Vt\0", [None, False]),
    ],
)
def test_each_type_has_its_value(raw: bytes, value: Value) -> None:
    assert decode_value(raw) == value
    assert type(decode_value(raw)) is type(value)
    assert encode_value(value) == raw


def test_nan_and_negative_zero_keep_their_bits() -> None:
    for raw in (b"d\x7f\xf8\0\0\0\0\0\1", b"d\xff\xf8\0\0\0\0\0\0", b"d\x80" + bytes(7)):
        assert encode_value(decode_value(raw)) == raw
    nan = decode_value(b"d\x7f\xf8" + bytes(6))
    assert isinstance(nan, float)
    assert math.isnan(nan)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\5ab", "within the name"),
        (b"\1a", "within the name"),
        (b"\1aI\0\0", "ends beyond"),
        (b"\1aS\0\0", "within its length"),
        (b"\1aS\0\0\0\5ab", "ends beyond"),
        (b"\1aZ", "unknown type b'Z'"),
        (b"\1aV\1aV", "twice"),
        (b"\1aA\0\0\0\1I", "ends beyond"),
    ],
)
def test_a_table_that_is_not_whole_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        decode_table(content)


def test_tables_nest_so_deep_and_no_deeper() -> None:
    raw = b"V"
    for _ in range(MAX_DEPTH - 1):
        raw = sized(b"A", raw)
    assert encode_table(decode_table(entry(b"a", raw))) == entry(b"a", raw)
    deep = entry(b"a", sized(b"F", entry(b"a", raw)))
    with pytest.raises(WireError, match="nest deeper"):
        decode_table(deep)
    assert [name for name, *_ in entries(deep)] == [b"a"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1 << 63, "64 bits"),
        (Decimal("1E+30"), "32 bits"),
        (Decimal("NaN"), "no form"),
        (Typed("u", -1), "'limit'"),
        (Typed("S", 1), "not the letter of a number"),
        (Typed("I", b"\0"), "ends beyond"),
        ("\ud800", "surrogates"),
        ([{"inner": 1 << 64}], "'inner' cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(value: Value, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        encode_entry("limit", value)
    assert "'limit'" in str(raised.value)


def test_a_name_that_is_too_long_is_refused() -> None:
    assert decode_table(encode_entry("é" * 127, None)) == {"é" * 127: None}
    with pytest.raises(ValueError, match="256 bytes"):
        encode_entry("é" * 128, None)


def test_decimals_of_python_are_written_with_the_scale_they_have() -> None:
    for text in ("0", "1.50", "-0.001", "2147483647", "3E+2"):
        (back,) = decode_table(encode_table({"d": Decimal(text)})).values()
        assert back == Decimal(text)


SHARED = st.dictionaries(
    st.text("abcé", min_size=1, max_size=5),
    st.one_of(
        st.booleans(),
        st.none(),
        st.text(max_size=5),
        st.integers(-(1 << 31), (1 << 31) - 1),
        st.integers((1 << 31), (1 << 63) - 1),
        st.lists(st.text(max_size=3), max_size=3),
        st.dictionaries(st.text("ab", max_size=2), st.text(max_size=3), max_size=2),
    ),
    max_size=5,
)


@given(SHARED)
def test_pika_and_py_amqp_read_what_we_write(table: Table) -> None:
    """Of the types that both get right."""
    raw = struct.pack(">I", len(content := encode_table(table))) + content
    assert pika_data.decode_table(raw, 0)[0] == table
    assert loads("F", raw, 0)[0] == [table]


@given(SHARED)
def test_we_read_what_pika_writes(table: Table) -> None:
    pieces: list[bytes] = []
    pika_data.encode_table(pieces, table)
    content = b"".join(pieces)[4:]
    assert encode_table(decode_table(content)) == content
    assert {k: _number(v) for k, v in decode_table(content).items()} == table


def _number(value: Value) -> Value:
    """pika writes each int as an int64 where it fits one of 32 bits not."""
    return value.value if isinstance(value, Typed) else value
