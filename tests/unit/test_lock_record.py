"""The lock record, as it is stored."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.lock.record import LARGEST, LockRecord, RecordError

RECORD = LockRecord("orders", "a", "a-1", token=7, sequence=3, lease=6.0, incarnation="run")

texts = st.text(max_size=20)


@given(
    st.builds(
        LockRecord,
        group=texts,
        holder=texts,
        instance=texts,
        token=st.integers(0, LARGEST),
        sequence=st.integers(0, LARGEST),
        lease=st.floats(0.1, 1000),
        incarnation=texts,
        released=st.booleans(),
        api=texts,
        cause=texts,
    )
)
def test_a_record_comes_back_as_it_was(record: LockRecord) -> None:
    assert LockRecord.from_json(record.to_json()) == record
    assert LockRecord.from_json(record.to_json().encode()) == record


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON"),
        ("nonsense", "no JSON"),
        ("[1]", "holds list"),
        ("{}", "format None"),
        ('{"v":2}', "format 2, not 1"),
        (RECORD.to_json().replace('"token":7', '"token":"7"'), "token is '7'"),
        (RECORD.to_json().replace('"token":7', '"token":true'), "token is True"),
        (RECORD.to_json().replace('"token":7', f'"token":{2**53 + 1}'), "not from 0 to 9007"),
        (RECORD.to_json().replace('"token":7', '"token":-1'), "token is -1, not from 0 to"),
        (RECORD.to_json().replace('"holder":"a",', ""), "holder is None"),
        (RECORD.to_json().replace('"released":false', '"released":"no"'), "released is 'no'"),
    ],
)
def test_what_is_no_record_is_said(text: str, problem: str) -> None:
    with pytest.raises(RecordError, match=problem):
        LockRecord.from_json(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_an_error(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        LockRecord.from_json(data)


def test_unknown_fields_of_a_later_version_are_ignored() -> None:
    text = RECORD.to_json().replace('"v":1', '"v":1,"new":[1]')
    assert LockRecord.from_json(text) == RECORD
