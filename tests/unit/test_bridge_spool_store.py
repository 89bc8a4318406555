"""The records of a spool over a folder that fills up, fails and dies at any moment: nothing that
was promised is lost, and all comes in order (scenario 70)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.spool.format import (
    CURSOR_SIZE,
    OVERHEAD,
    FormatError,
    cursor_of,
    encode_cursor,
    encode_head,
    encode_record,
    head_of,
    read_records,
)
from understudyd.bridge.spool.port import SpoolFull
from understudyd.bridge.spool.store import CURSOR, Store
from understudyd.testing.spooled import MemoryFiles

QUOTA = 64 << 10
META = b"meta"


def opened(files: MemoryFiles, quota: int = QUOTA) -> Store:
    store = Store(files, quota, Random(1))
    store.open()
    return store


def all_of(store: Store) -> list[bytes]:
    """What is not acknowledged, in order."""
    found: list[tuple[int, bytes]] = []
    number = store.cursor
    while (batch := store.read(number)[1]) != []:
        found += batch
        number = batch[-1][0] + 1
    assert [number for number, _ in found] == sorted({number for number, _ in found})
    return [payload for _, payload in found]


def size_of(*payloads: bytes) -> int:
    return sum(OVERHEAD + len(payload) for payload in payloads)


@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(1, 1 << 60), st.data())
def test_records_are_read_up_to_where_their_bytes_end(
    payloads: list[bytes], first: int, data: Any
) -> None:
    raw = b"".join(
        encode_record(number, payload, 7, begins=number == first)
        for number, payload in enumerate(payloads, first)
    )
    cut = data.draw(st.integers(0, len(raw)))
    records, end, _ = read_records(raw[:cut], 7, first)
    assert [payload for _, payload in records] == payloads[: len(records)]
    assert end <= cut
    whole = read_records(raw + bytes(40), 7, first)
    assert [payload for _, payload in whole.records] == payloads
    assert not read_records(raw, 8, first).records


@given(st.binary(max_size=40), st.integers(0, 1000), st.integers(0, 7))
def test_a_bit_that_flips_is_seen(payload: bytes, place: int, bit: int) -> None:
    raw = bytearray(encode_record(5, payload, 7, begins=True))
    raw[place % len(raw)] ^= 1 << bit
    assert read_records(bytes(raw), 7, 5).records == []
    head = bytearray(encode_head(3, 9, b"some", 1000))
    head[place % len(head)] ^= 1 << bit
    with pytest.raises(FormatError):
        head_of(bytes(head))


@given(st.lists(st.integers(1, 1 << 60), min_size=1, max_size=6), st.data())
def test_of_a_cursor_the_last_one_that_is_whole_counts(numbers: list[int], data: Any) -> None:
    raw = bytearray(CURSOR_SIZE)
    for turn, number in enumerate(numbers, 1):
        at, slot = encode_cursor(turn, number)
        raw[at : at + len(slot)] = slot
    assert cursor_of(bytes(raw)) == (len(numbers), numbers[-1])
    at, slot = encode_cursor(len(numbers) + 1, 77)
    torn = data.draw(st.integers(0, len(slot) - 1))
    raw[at : at + torn] = slot[:torn]
    found = cursor_of(bytes(raw))
    assert found in {(len(numbers), numbers[-1]), (len(numbers) + 1, 77)}
    assert cursor_of(b"") is None


def test_what_was_appended_is_there_after_it_is_opened_again() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    assert store.append([b"a", b"b", b"c"], META) == 3
    assert (store.messages, store.bytes) == (3, size_of(b"a", b"b", b"c"))
    store.acknowledge(2, size_of(b"a"))
    files.die()
    again = opened(files)
    assert (again.messages, again.bytes) == (2, size_of(b"b", b"c"))
    assert again.read(2) == (META, [(2, b"b"), (3, b"c")])
    assert again.append([b"d"], b"other") == 1
    assert all_of(again) == [b"b", b"c", b"d"]
    assert again.read(4)[0] == b"other"


def test_it_is_full_at_its_quota_and_has_room_when_enough_is_acknowledged() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    payload = bytes(1000)
    kept = store.append([payload] * 200, META)
    assert 40 < kept < 64
    assert store.used <= QUOTA
    assert not store.has_room
    with pytest.raises(SpoolFull, match=r"of 65536 bytes are in use \(spool_size\)"):
        store.append([payload], META)
    with pytest.raises(SpoolFull):
        store.prepare()
    for number in range(2, kept + 2):
        store.acknowledge(number, size_of(payload))
    assert (store.messages, store.bytes) == (0, 0)
    assert store.has_room
    store.prepare()
    assert store.append([payload], META) == 1
    assert len(files.names()) == 2  # the cursor, and one segment


def test_a_message_larger_than_the_quota_is_taken_alone() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    large = bytes(QUOTA + 1)
    assert store.append([b"a"], META) == 1
    with pytest.raises(SpoolFull, match="bytes are in use"):
        store.append([large], META)
    store.acknowledge(2, size_of(b"a"))
    assert store.append([large, b"b"], META) == 1
    assert store.read(2)[1] == [(2, large)]
    store.acknowledge(3, size_of(large))
    assert store.append([b"b"], META) == 1
    assert all_of(store) == [b"b"]


def test_there_is_room_again_when_what_had_none_would_have_it() -> None:
    """Else the source would be opened and closed over one large message, as fast as it goes."""
    files = MemoryFiles(Random(1))
    store = opened(files)
    payloads = [bytes(1000)] * 30
    assert store.append(payloads, META) == 30
    assert store.has_room
    with pytest.raises(SpoolFull):
        store.append([bytes(QUOTA * 5 // 8)], META)
    assert not store.has_room
    number = 2
    while not store.has_room:
        store.acknowledge(number, size_of(payloads[0]))
        number += 1
    assert store.messages
    assert store.append([bytes(QUOTA * 5 // 8)], META) == 1


def test_a_full_disk_is_known_before_anything_is_taken() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    files.room = CURSOR_SIZE + 100
    with pytest.raises(OSError, match="No space left"):
        store.prepare()
    files.room = None
    store.prepare()
    assert store.append([b"a"], META) == 1


@pytest.mark.parametrize("method", ["write", "sync"])
def test_nothing_more_goes_into_a_segment_that_failed(method: str) -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    store.append([b"a"], META)
    files.fails.add(method)
    with pytest.raises(OSError, match="Input/output"):
        store.append([b"b", b"c"], META)
    assert store.append([b"b", b"c"], META) == 2
    assert sum(name.endswith(".segment") for name in files.names()) == 2
    files.die()
    assert all_of(opened(files)) == [b"a", b"b", b"c"]


def test_a_cursor_that_could_not_be_written_is_in_force_and_written_later() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    store.append([b"a", b"b"], META)
    files.fails.add("sync")
    with pytest.raises(OSError, match="Input/output"):
        store.acknowledge(2, size_of(b"a"))
    assert store.messages == 1
    store.acknowledge(2, 0)
    files.die()
    assert all_of(opened(files)) == [b"b"]


@pytest.mark.parametrize("method", ["write", "sync"])
@pytest.mark.parametrize("reopens", [False, True])
def test_nothing_goes_before_the_cursor_is_on_disk(method: str, reopens: bool) -> None:
    """Else its absence would look like damage after a power cut."""
    files = MemoryFiles(Random(1))
    opened(files).append([b"a"], META)
    store = opened(files)
    store.append([b"b"], b"other")
    files.fails.add(method)
    with pytest.raises(OSError, match="Input/output"):
        store.acknowledge(3, size_of(b"a", b"b"))
    if reopens:
        store = opened(files)
    store.append([b"c"], META)
    files.die()
    again = opened(files)
    assert not again.damage
    assert all_of(again)[-1] == b"c"


def test_without_its_cursor_everything_that_is_there_comes_again() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    store.append([b"a", b"b"], META)
    store.acknowledge(2, size_of(b"a"))
    files.seen[CURSOR] = bytearray(CURSOR_SIZE)
    again = opened(files)
    assert all_of(again) == [b"a", b"b"]


def test_what_the_disk_has_lost_is_told_and_passed_over() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    for payload in (b"first", b"second", b"third", b"fourth"):
        store.append([payload], META)  # a commit each
    (name,) = (name for name in files.names() if name.endswith(".segment"))
    files.seen[name][files.seen[name].index(b"second")] ^= 1
    again = opened(files)
    assert all_of(again) == [b"first", b"third", b"fourth"]
    assert again.damage == [f"{name} is damaged: 1 message cannot be read"]
    again.append([b"fifth"], META)
    again.acknowledge(6, again.bytes)
    assert name.replace(".segment", ".damaged") in files.names()
    assert not opened(files).damage


def test_a_record_that_breaks_while_it_is_open_is_passed_over_too() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    store.append([b"first", b"second", b"third"], META)
    (name,) = (name for name in files.names() if name.endswith(".segment"))
    files.seen[name][files.seen[name].index(b"second")] ^= 1
    assert all_of(store) == [b"first", b"third"]
    assert store.damage == [f"{name} is damaged: 1 message cannot be read"]


def test_a_segment_without_a_head_that_held_something_is_kept_for_people() -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    store.append([b"a"], META)
    (name,) = (name for name in files.names() if name.endswith(".segment"))
    files.seen[name][0] ^= 1
    again = opened(files)
    assert all_of(again) == []
    assert again.damage[0].startswith(f"{name} cannot be read: ")
    assert name.replace(".segment", ".damaged") in files.names()


@pytest.mark.parametrize("reopens", [1, 2])
@pytest.mark.parametrize("left", [0, 20, 90, 140, 1000])
def test_a_last_segment_that_was_cut_off_is_told_and_kept(left: int, reopens: int) -> None:
    files = MemoryFiles(Random(1))
    store = opened(files)
    for payload in (b"first", b"second", b"third"):
        store.append([payload], META)
    for _ in range(reopens - 1):  # which shortens it on purpose
        assert not opened(files).damage
    (name,) = (name for name in files.names() if name.endswith(".segment"))
    del files.seen[name][min(left, len(files.seen[name]) - 1) :]
    again = opened(files)
    found = all_of(again)
    assert found == [b"first", b"second", b"third"][: len(found)]
    assert len(again.damage) == 1
    assert again.damage[0].startswith(f"{name} ")
    assert again.append([b"fourth"], META) == 1
    assert all_of(opened(files)) == [*found, b"fourth"]
    again.acknowledge(again.next, again.bytes)
    assert name.replace(".segment", ".damaged") in files.names()


def test_files_that_are_named_otherwise_are_left_alone() -> None:
    files = MemoryFiles(Random(1))
    names = [
        "zzz.segment",
        "1.segment",
        "0" * 19 + "\u0661.segment",
        "00000000000000000001.damaged",
    ]
    for name in names:
        files.create(name, 10, b"theirs")
    store = opened(files)
    assert store.append([b"a"], META) == 1
    store.acknowledge(2, store.bytes)
    assert set(names) < set(files.names())
    assert not store.damage


def test_bytes_of_a_message_are_taken_for_no_record() -> None:
    """One torn message that holds what looks like a later commit, but for the seed."""
    files = MemoryFiles(Random(1))
    store = opened(files)
    store.append([b"a"], META)
    forged = encode_record(3, b"forged", 1, begins=True)
    store.append([b"x" * 50 + forged], META)
    (name,) = (name for name in files.names() if name.endswith(".segment"))
    files.seen[name][files.seen[name].index(b"xxxx")] ^= 1
    again = opened(files)
    assert all_of(again) == [b"a"]
    assert not again.damage  # as far as can be told that was a torn end
