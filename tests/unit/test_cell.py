"""A cell of shared memory: whole or not at all, wherever the writer is killed."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from understudyd.cell import HEAD, Cell

SIZE = 16
LETTERS = [bytes([65 + number]) * (SIZE - number) for number in range(5)]


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, 8 + Cell.room(SIZE)) as memory:
        yield memory


def test_a_reader_sees_the_last_that_was_written(memory: mmap.mmap) -> None:
    ours, theirs = Cell(memory, 8, SIZE), Cell(memory, 8, SIZE)
    assert theirs.read() == (0, b"")
    known = 0
    for sequence, data in enumerate(LETTERS, 1):
        ours.write(data)
        assert theirs.read(known) == (sequence, data)
        assert theirs.read() == (sequence, data)
        known = sequence
        assert theirs.read(known) == (known, b"")
    theirs.write(b"it follows")
    assert ours.read(known) == (known + 1, b"it follows")
    assert memory[:8] == bytes(8)


def steps(before: bytes, after: bytes, slot: int) -> Iterator[bytes]:
    """The memory after each byte of a write: the head is cleared, then data, then the head."""
    now = bytearray(before)
    cleared = [(place, 0) for place in range(slot, slot + HEAD.size)]
    data = range(slot + HEAD.size, slot + HEAD.size + SIZE)
    head = range(slot, slot + HEAD.size)
    for place, byte in [*cleared, *((place, after[place]) for place in (*data, *head))]:
        now[place] = byte
        yield bytes(now)
    assert bytes(now) == after


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_writer_that_is_killed_at_any_byte_leaves_what_was_there(
    memory: mmap.mmap, writes: int
) -> None:
    """Catalogue 10, 27."""
    cell = Cell(memory, 8, SIZE)
    for data in LETTERS[:writes]:
        cell.write(data)
    before, was = memory[:], cell.read()
    cell.write(LETTERS[writes])
    after, becomes = memory[:], cell.read()
    slot = next(at for at in (8, 8 + HEAD.size + SIZE) if before[at:][:8] != after[at:][:8])
    for step in steps(before, after, slot):
        memory[:] = step
        assert cell.read() == (becomes if step == after else was)
        if step != after:
            cell.write(b"whoever follows")
            assert cell.read()[1] == b"whoever follows"


def test_what_is_not_what_was_written_is_not_read(memory: mmap.mmap) -> None:
    cell = Cell(memory, 8, SIZE)
    cell.write(b"first")
    broken = memory[:].replace(b"first", b"FIRST")
    memory[:] = broken
    assert cell.read() == (0, b"")


def test_refuses_what_is_too_large(memory: mmap.mmap) -> None:
    with pytest.raises(ValueError, match="17 bytes do not fit into 16"):
        Cell(memory, 0, SIZE).write(bytes(SIZE + 1))
