"""Properties as bytes: patching is decoding, changing and encoding; the rest stays as it was."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.spec import BasicProperties

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.properties import (
    FIELDS,
    append_entry,
    build,
    get,
    get_header,
    header_content,
    patch,
    read,
    remove_header,
    set_header,
)
from understudyd.bridge.wire.tables import Table, Typed, Value, encode_entry, encode_table

SHORT = st.text(max_size=8)
HEADERS: st.SearchStrategy[Table] = st.dictionaries(
    st.sampled_from(["a", "b", "x-understudy-path", "é", ""]),
    st.one_of(SHORT, st.floats(allow_nan=False), st.just(Typed("T", 1 << 63)), st.binary()),
    max_size=4,
)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "s": SHORT,
    "F": HEADERS,
    "B": st.integers(0, 255),
    "Q": st.integers(0, (1 << 64) - 1),
}
ALL_FIELDS: st.SearchStrategy[dict[str, Value]] = st.fixed_dictionaries(
    {}, optional={name: KINDS[kind] for name, kind in FIELDS.items()}
)


@given(ALL_FIELDS)
def test_what_is_built_is_read_again(fields: dict[str, Value]) -> None:
    raw = build(fields)
    assert read(raw) == fields
    for name in FIELDS:
        assert get(raw, name) == fields.get(name)


@given(ALL_FIELDS, st.dictionaries(st.sampled_from(list(FIELDS)), st.none(), max_size=3), st.data())
def test_patching_is_decoding_changing_and_encoding(
    fields: dict[str, Value], changes: dict[str, Value], data: Any
) -> None:
    for name in changes:
        changes[name] = data.draw(st.one_of(st.none(), KINDS[FIELDS[name]]))
    wanted = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    assert patch(build(fields), changes) == build(wanted)


@given(ALL_FIELDS, st.sampled_from(["a", "x-understudy-path", "new"]), SHORT)
def test_setting_a_header_leaves_the_others_as_they_were(
    fields: dict[str, Value], name: str, value: str
) -> None:
    headers = fields.get("headers") or {}
    assert isinstance(headers, dict)
    wanted = build({**fields, "headers": {**headers, name: value}})
    assert set_header(build(fields), name, value) == wanted
    assert get_header(wanted, name) == value


@given(ALL_FIELDS, st.sampled_from(["a", "x-understudy-path", "new"]))
def test_removing_a_header_leaves_the_others_as_they_were(
    fields: dict[str, Value], name: str
) -> None:
    headers = fields.get("headers") or {}
    assert isinstance(headers, dict)
    raw = build(fields)
    if name not in headers:
        assert remove_header(raw, name) is raw
        assert get_header(raw, name, "none") == "none"
        return
    left = {other: value for other, value in headers.items() if other != name}
    assert remove_header(raw, name) == build({**fields, "headers": left or None})


@given(ALL_FIELDS)
def test_an_entry_is_added_behind_the_headers(fields: dict[str, Value]) -> None:
    headers = fields.get("headers") or {}
    assert isinstance(headers, dict)
    entry = encode_entry("x-new", "here")
    wanted = build({**fields, "headers": {**headers, "x-new": "here"}})
    assert append_entry(build(fields), entry) == wanted


@given(st.one_of(st.binary(max_size=40), ALL_FIELDS.map(build)), st.data())
def test_any_bytes_parse_or_raise_the_one_error(raw: bytes, data: Any) -> None:
    if raw:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + data.draw(st.binary(max_size=2)) + raw[at + 1 :]
    for attempt in (read, header_content, lambda raw: append_entry(raw, b"\1aV")):
        with suppress(WireError):
            attempt(raw)


def test_the_flags_of_no_field_are_kept() -> None:
    raw = b"\0\3"
    assert read(raw) == {}
    assert patch(raw, {"delivery_mode": 2}) == b"\x10\3\2"
    assert append_entry(raw, b"\1aV") == b"\x20\3\0\0\0\3\1aV"
    assert set_header(raw, "a", None) == b"\x20\3\0\0\0\3\1aV"


def test_of_repeated_headers_the_first_is_read_and_kept() -> None:
    content = b"\1aS\0\0\0\1x" + b"\1bV" + b"\1aS\0\0\0\1y"
    raw = b"\x20\0" + struct.pack(">I", len(content)) + content
    assert get_header(raw, "a") == "x"
    assert header_content(set_header(raw, "a", None)) == b"\1aV\1bV"
    assert header_content(remove_header(raw, "a")) == b"\1bV"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"message_id": "x" * 256}, "message_id has 256 bytes"),
        ({"priority": 256}, "priority cannot be 256: 8 bits"),
        ({"timestamp": -1}, "timestamp cannot be -1"),
        ({"headers": "text"}, "headers cannot be a str; it is a table"),
        ({"expiration": 5}, "expiration cannot be a int; it is text"),
        ({"prio": 1}, "no such property"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(fields: dict[str, Value], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        build(fields)


@pytest.mark.parametrize("raw", [b"", b"\x80", b"\x80\0", b"\x80\0\5ab", b"\x20\0\0\0", b"\0\0x"])
def test_properties_that_are_not_whole_are_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        read(raw)


PIKA = st.fixed_dictionaries(
    {},
    optional={
        **{name: KINDS[kind] for name, kind in FIELDS.items() if kind in "sBQ"},
        "headers": st.dictionaries(SHORT.filter(lambda name: len(name) < 60), SHORT, min_size=1),
        "timestamp": st.integers(0, 4102444800),
    },
)


@given(PIKA)
def test_pika_writes_and_reads_the_same_bytes(fields: dict[str, Any]) -> None:
    """But for text that is empty, which pika leaves out."""
    fields = {name: value for name, value in fields.items() if value != ""}
    theirs = BasicProperties(**fields)
    assert b"".join(theirs.encode()) == build(fields)
    back = BasicProperties().decode(build(fields))
    assert {name: getattr(back, name) for name in fields} == fields


def test_headers_come_in_the_order_given() -> None:
    table: Table = {"z": "1", "a": "2"}
    assert header_content(build({"headers": table})) == encode_table(table)
