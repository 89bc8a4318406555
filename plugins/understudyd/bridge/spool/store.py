"""The records of a spool: appended at one end, read and acknowledged at the other. No I/O but by
the port.

Rules
* What `append` has returned for is on disk. What it raises for is not, or may come twice.
* After a failed sync nothing more is written into that segment, and its end is where it was at the
  last success: what is behind may be gone, or be there after all. The next segment begins with the
  number that is due; that ends the one before it, whatever else is in it.
* Nor is anything written behind a torn end: after each opening another segment is begun. The last
  commit that is found then may be in the kernel's memory alone, which may have given up writing it:
  it is written and synced again.
* A segment takes its room when it is made, so that a full disk is known before messages are taken.
* It goes when all its records are acknowledged and the cursor is on disk. One that is found may be
  in the kernel's memory alone, so it is written and synced again too.
* The room behind the last record is given back with an end. A last segment that is shorter than it
  was made and has none has lost what was at its end.
* What the disk has lost is told (`damage`) and passed over; the file stays, as ``*.damaged``.
* Only what is named as a segment is one: other files in the folder are left alone.
* All segments have no more than the quota together, but one message that alone is larger.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from understudyd.bridge.counts import messages
from understudyd.bridge.spool.format import (
    CURSOR_SIZE,
    OVERHEAD,
    FormatError,
    cursor_of,
    encode_cursor,
    encode_end,
    encode_head,
    encode_record,
    head_of,
    is_end,
    length_at,
    next_record,
    read_records,
)
from understudyd.bridge.spool.port import Files, SpoolFull

__all__ = ["CURSOR", "SUFFIX", "Batch", "Store"]

CURSOR = "cursor"
SUFFIX = ".segment"
DAMAGED = ".damaged"
_NAMED: Final = re.compile("[0-9]{20}" + re.escape(SUFFIX))
LARGEST = 16 << 20  # bytes of a segment, unless one message is larger
SEGMENTS = 8  # of them at least have room in a quota
ROOM = 0.75  # of the quota in use: below that there is room again
CHUNK = 1 << 20  # bytes that are read at a time

Batch: TypeAlias = "tuple[bytes, list[tuple[int, bytes]]]"
"""The meta, and records with their numbers."""


@dataclass
class Segment:
    name: str
    first: int
    seed: int
    meta: bytes
    start: int  # of the first record
    size: int  # in the folder
    end: int  # of what is on disk
    next: int
    is_damaged: bool = False


class Store:
    """Of one folder; used by one thread at a time."""

    def __init__(self, files: Files, quota: int, rng: Random) -> None:
        """``quota`` in bytes; `open` comes first."""
        self._files = files
        self._quota = quota
        self._rng = rng
        self._largest = min(LARGEST, quota // SEGMENTS)
        self._segments: list[Segment] = []
        self._is_writable = False  # the last segment
        self._turn = 0
        self._done = 1  # the cursor that is on disk
        self._lacked = 0  # bytes that there was no room for
        self._reading: tuple[Segment, int, int] | None = None  # number and place of what is next
        self.cursor = 1
        """Below it everything is acknowledged."""
        self.next = 1
        """The number of the next record."""
        self.bytes = 0
        """Of records that are not acknowledged."""
        self.damage: list[str] = []
        """What the disk has lost, in words."""

    @property
    def messages(self) -> int:
        """Records that are not acknowledged."""
        return self.next - self.cursor

    @property
    def used(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def has_room(self) -> bool:
        """Whether it is worth while to take messages again after it was full."""
        most = min(ROOM * self._quota, self._quota - self._lacked)
        return not self.messages or self.used <= most

    def open(self) -> None:
        """Find what is there; also after anything failed. Raises OSError."""
        self._segments, self._is_writable, self._reading = [], False, None
        self._read_cursor()
        self.bytes, self.next = 0, self.cursor
        names = sorted(name for name in self._files.names() if _NAMED.fullmatch(name))
        firsts = [int(name.removesuffix(SUFFIX)) for name in names]
        for place, name in enumerate(names):
            until = firsts[place + 1] if place + 1 < len(names) else None
            if (segment := self._found(name, firsts[place], until)) is not None:
                self._segments.append(segment)
                self.next = max(self.next, segment.next)
        self._delete_done()

    def prepare(self) -> None:
        """See to it that records can be appended; raises OSError, or SpoolFull."""
        if not self._is_writable:
            meta = self._segments[-1].meta if self._segments else b""
            self._begin(self._largest // 2, meta)

    def append(self, payloads: Sequence[bytes], meta: bytes) -> int:
        """Put them at the end, on disk; ``meta`` is kept with them.

        Returns how many, where that is not all of them whoever asks again is told why: raises
        OSError or SpoolFull.
        """
        kept = 0
        try:
            while kept < len(payloads):
                segment = self._segment_for(OVERHEAD + len(payloads[kept]), meta)
                kept += self._commit(segment, payloads[kept:])
        except (OSError, SpoolFull):
            if not kept:
                raise
        return kept

    def read(self, number: int) -> Batch:
        """Some records from this number on, of one meta, none where there are no more; raises
        OSError."""
        segment = next((one for one in self._segments if one.next > number), None)
        if segment is None:
            return b"", []
        at, due = self._place_of(segment, number)
        while due < segment.next:
            data = self._files.read(segment.name, at, min(CHUNK, segment.end - at))
            if len(data) >= OVERHEAD and length_at(data) > len(data):
                data = self._files.read(segment.name, at, min(length_at(data), segment.end - at))
            found = read_records(data, segment.seed, due)
            if found.records:
                at, due = at + found.end, found.records[-1][0] + 1
                self._reading = (segment, due, at)
                if records := [record for record in found.records if record[0] >= number]:
                    return segment.meta, records
            else:
                at, due = self._behind(segment, at, due)
        self._reading = None
        return self.read(segment.next)

    def acknowledge(self, number: int, size: int) -> None:
        """Everything below this number is done with; these were ``size`` bytes, each with
        `OVERHEAD`. Raises OSError; it is in force in any case."""
        self.cursor = number
        self.bytes -= size
        self._write_cursor()
        self._delete_done()

    # The end where records are appended

    def _segment_for(self, needed: int, meta: bytes) -> Segment:
        """One that has room for so many bytes of a record."""
        last = self._segments[-1] if self._is_writable else None
        if last is None or last.meta != meta or last.end + needed > last.size:
            self._begin(needed, meta)
        return self._segments[-1]

    def _commit(self, segment: Segment, payloads: Sequence[bytes]) -> int:
        """Write as many as have room, and sync; how many."""
        pieces: list[bytes] = []
        size, room, number = 0, segment.size - segment.end, segment.next
        for payload in payloads:
            size += OVERHEAD + len(payload)
            if size > room:
                break
            begins = not pieces
            pieces.append(encode_record(number, payload, segment.seed, begins=begins))
            number += 1
        data = b"".join(pieces)
        self._is_writable = False
        self._files.write(segment.name, segment.end, data)
        self._files.sync(segment.name)
        self._is_writable = True
        segment.end, segment.next, self.next = segment.end + len(data), number, number
        self.bytes += len(data)
        return len(pieces)

    def _begin(self, needed: int, meta: bytes) -> None:
        """Another segment, with room for so many bytes of records."""
        seed = self._rng.getrandbits(64)
        start = len(encode_head(self.next, seed, meta, 0))
        self._is_writable = False
        self._end_last()
        size, left = max(self._largest, start + needed), self._quota - self.used
        if size > left and self._segments:
            size = left
        self._lacked = start + needed if size < start + needed else 0
        if self._lacked:
            raise SpoolFull(f"{self.used} of {self._quota} bytes are in use (spool_size)")
        name = f"{self.next:020d}{SUFFIX}"
        self._files.create(name, size, encode_head(self.next, seed, meta, size))
        segment = Segment(name, self.next, seed, meta, start, size, start, self.next)
        self._segments.append(segment)
        self._is_writable = True

    def _end_last(self) -> None:
        """Nothing more goes into the last segment: its room is given back."""
        if not self._segments:
            return
        last = self._segments[-1]
        if last.next <= self._done or last.next == last.first:
            self._segments.pop()
            self._delete(last)
        else:
            with suppress(OSError):  # then it keeps its room
                self._shorten(last)

    def _shorten(self, segment: Segment) -> None:
        """Give back the room behind the last record, and say so."""
        end = encode_end(segment.next, segment.seed)
        if segment.size > segment.end + len(end) and not segment.is_damaged:
            self._files.write(segment.name, segment.end, end)
            self._files.sync(segment.name)
            self._files.cut(segment.name, segment.end + len(end))
            segment.size = segment.end + len(end)

    # The end where they are read

    def _place_of(self, segment: Segment, number: int) -> tuple[int, int]:
        """Where to begin, and with which number."""
        if self._reading is not None:
            reading, due, at = self._reading
            if reading is segment and due <= number:
                return at, due
        return segment.start, segment.first

    def _behind(self, segment: Segment, at: int, due: int) -> tuple[int, int]:
        """Pass over what cannot be read."""
        data = self._files.read(segment.name, at, segment.end - at)
        found = next_record(data, segment.seed, due, 0, in_commit=False)
        place, number = (segment.end, segment.next) if found is None else (at + found[0], found[1])
        if not segment.is_damaged:
            self._lost(segment, due, number)
        return place, number

    def _delete_done(self) -> None:
        """Those that are acknowledged but the one that is written to."""
        while self._segments and self._segments[0].next <= self._done:
            if self._is_writable and len(self._segments) == 1:
                break
            self._delete(self._segments.pop(0))

    def _delete(self, segment: Segment) -> None:
        if segment.is_damaged:
            self._files.rename(segment.name, segment.name.removesuffix(SUFFIX) + DAMAGED)
        else:
            self._files.delete(segment.name)

    # What is there

    def _read_cursor(self) -> None:
        found = None
        if CURSOR in self._files.names():
            found = cursor_of(self._files.read(CURSOR, 0, CURSOR_SIZE))
        if found is None:
            self._turn, self.cursor = 0, 1
            self._files.create(CURSOR, CURSOR_SIZE, b"")
        else:
            turn, self.cursor = found
            self._turn = turn - 1  # the same place is written again
        self._write_cursor()

    def _write_cursor(self) -> None:
        """A place that could not be written is tried again: the other one is whole."""
        turn, number = self._turn + 1, self.cursor
        self._files.write(CURSOR, *encode_cursor(turn, number))
        self._files.sync(CURSOR)
        self._turn, self._done = turn, number

    def _found(self, name: str, first: int, until: int | None) -> Segment | None:
        """A segment, whose records end before ``until``; without that it is the last one."""
        size = self._files.size(name)
        data = self._files.read(name, 0, size)
        try:
            head = head_of(data)
        except FormatError as error:
            self._headless(name, first, until, str(error))
            return None
        segment = Segment(name, first, head.seed, head.meta, head.end, size, head.end, first)
        at, due, commit = head.end, first, head.end
        while until is None or due < until:
            records, end, commit = read_records(data, head.seed, due, at)
            for number, payload in records:
                if until is not None and number >= until:
                    break
                at, due = at + OVERHEAD + len(payload), number + 1
                self.bytes += (OVERHEAD + len(payload)) if number >= self.cursor else 0
            segment.end, segment.next = at, due
            if until is not None and due >= until:
                break
            found = next_record(data, head.seed, due, end, in_commit=until is None)
            if found is None or (until is not None and found[1] >= until):
                break
            self._lost(segment, due, found[1])
            at, due = found
        if until is not None and due < until:
            self._lost(segment, due, until)
            segment.next = until
        if size < head.size and not is_end(data, segment.next, head.seed, segment.end):
            segment.is_damaged = True
            if until is None:
                self.damage.append(f"{name} was cut off: what was behind its end cannot be read")
        if until is None:
            self._files.write(name, commit, data[commit : segment.end])
            self._files.sync(name)
            self._shorten(segment)
        return segment

    def _headless(self, name: str, first: int, until: int | None, why: str) -> None:
        """One that says nothing is damaged."""
        missing = "" if until is None else f" ({messages(until - first)})"
        self.damage.append(f"{name} cannot be read{missing}: {why}")
        self._files.rename(name, name.removesuffix(SUFFIX) + DAMAGED)

    def _lost(self, segment: Segment, due: int, number: int) -> None:
        segment.is_damaged = True
        if number > self.cursor:
            missing = number - max(due, self.cursor)
            self.damage.append(f"{segment.name} is damaged: {messages(missing)} cannot be read")
