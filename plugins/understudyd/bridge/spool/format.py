"""What lies in the files of a spool: bytes in, records out. No I/O.

    segment  =  head, records, and an end or zeros up to its size
    head     =  magic (with the version), number of the first record, seed, size, meta
    record   =  magic, checksum, number, length with a mark, payload
    end      =  magic, checksum, number of the record that would be next

Rules
* Records are numbered 1, 2, 3 ... over all segments. A checksum (CRC32) is of number, length and
  payload, and begins with the seed of the segment, which nobody outside knows: bytes in a message,
  or left in a block of the disk, are taken for no record.
* What is synced at a time is a commit, whose first record has a mark. A commit is written when the
  one before it is on disk. So what cannot be read is the torn end of the last commit unless a later
  commit follows: then the disk has lost what it had promised to keep (`Damage`).
* A segment has the size that its head says, or an end: then it was shortened on purpose.
* The cursor is written to two places in turn: one of them is always whole.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from zlib import crc32

__all__ = [
    "CURSOR_SIZE",
    "OVERHEAD",
    "FormatError",
    "Head",
    "Read",
    "cursor_of",
    "encode_cursor",
    "encode_end",
    "encode_head",
    "encode_record",
    "head_of",
    "is_end",
    "length_at",
    "next_record",
    "read_records",
]

_SEGMENT: Final = b"uspool01"
_RECORD: Final = b"\xf5rec"
_END: Final = b"\xf5end"
_CURSOR: Final = b"\xf5cur"
_MARK: Final = 1 << 31  # in the length: the first record of a commit
_head = struct.Struct(">8sIQQQI")  # magic, checksum, first, seed, size, length of meta
_record = struct.Struct(">4sIQI")  # magic, checksum, number, length and mark
_end = struct.Struct(">4sIQ")  # magic, checksum, number
_cursor = struct.Struct(">4sIQQ")  # magic, checksum, turn, number
_SLOT: Final = 4096  # bytes; no two are in one sector

OVERHEAD: Final = _record.size  # bytes of a record beside its payload
CURSOR_SIZE: Final = 2 * _SLOT


class FormatError(ValueError):
    """This is no segment of ours."""


class Head(NamedTuple):
    """How a segment begins."""

    first: int
    seed: int
    meta: bytes
    size: int
    """Bytes that the segment was made with."""
    end: int
    """Where the first record is."""


class Read(NamedTuple):
    """What could be read in one piece."""

    records: list[tuple[int, bytes]]
    """Number and payload."""
    end: int
    """Where the next one would be."""
    commit: int
    """Where the last commit among them begins."""


def encode_head(first: int, seed: int, meta: bytes, size: int) -> bytes:
    """``size`` is that of the whole segment in bytes."""
    rest = _head.pack(_SEGMENT, 0, first, seed, size, len(meta))[12:] + meta
    return b"%b%b%b" % (_SEGMENT, struct.pack(">I", crc32(rest)), rest)


def head_of(data: bytes) -> Head:
    """Raises FormatError."""
    if len(data) < _head.size:
        raise FormatError("it is too short")
    magic, checksum, first, seed, size, length = _head.unpack_from(data)
    end = _head.size + length
    if magic != _SEGMENT:
        raise FormatError("it is of another version, or no segment")
    if len(data) < end or crc32(data[12:end]) != checksum:
        raise FormatError("its head is damaged")
    return Head(first, seed, data[_head.size : end], size, end)


def encode_record(number: int, payload: bytes, seed: int, *, begins: bool) -> bytes:
    """``begins``: it is the first of a commit."""
    length = len(payload) | (_MARK if begins else 0)
    checksum = crc32(payload, crc32(struct.pack(">QI", number, length), seed & 0xFFFFFFFF))
    return _record.pack(_RECORD, checksum, number, length) + payload


def read_records(data: bytes, seed: int, number: int, at: int = 0, most: int = 1 << 62) -> Read:
    """The records from ``at`` on, which are numbered from ``number`` on; they end with the first
    that is none, or with ``most`` bytes of payload."""
    records: list[tuple[int, bytes]] = []
    size, commit = len(data), at
    seed &= 0xFFFFFFFF
    while at + OVERHEAD <= size and most > 0:
        magic, checksum, found, length = _record.unpack_from(data, at)
        end = at + OVERHEAD + (length & ~_MARK)
        if magic != _RECORD or found != number or end > size:
            break
        payload = data[at + OVERHEAD : end]
        if crc32(payload, crc32(data[at + 8 : at + OVERHEAD], seed)) != checksum:
            break
        if length & _MARK:
            commit = at
        records.append((number, payload))
        most -= len(payload)
        number, at = number + 1, end
    return Read(records, at, commit)


def next_record(
    data: bytes, seed: int, number: int, at: int, *, in_commit: bool
) -> tuple[int, int] | None:
    """Behind what cannot be read: place and number of the next record.

    ``number`` is the one that was due at ``at``. ``in_commit``: only if a commit begins with it, or
    after it; else what cannot be read was promised to nobody.
    """
    first: tuple[int, int] | None = None
    at = data.find(_RECORD, at + 1)
    while at >= 0:
        if at + OVERHEAD <= len(data):
            _, _, found, length = _record.unpack_from(data, at)
            if found > number and _is_record(data, at, seed):
                first = first or (at, found)
                if length & _MARK or not in_commit:
                    return first
        at = data.find(_RECORD, at + 1)
    return None


def encode_end(number: int, seed: int) -> bytes:
    """What says that the records end before this number."""
    return _end.pack(_END, crc32(struct.pack(">Q", number), seed & 0xFFFFFFFF), number)


def is_end(data: bytes, number: int, seed: int, at: int) -> bool:
    """Whether that was said there."""
    return data.startswith(encode_end(number, seed), at)


def length_at(data: bytes, at: int = 0) -> int:
    """Bytes of the record that begins there, if one does."""
    return OVERHEAD + int(_record.unpack_from(data, at)[3] & ~_MARK)


def _is_record(data: bytes, at: int, seed: int) -> bool:
    _, checksum, _, length = _record.unpack_from(data, at)
    end = at + OVERHEAD + (length & ~_MARK)
    if end > len(data):
        return False
    return bool(crc32(data[at + 8 : end], seed & 0xFFFFFFFF) == checksum)


def encode_cursor(turn: int, number: int) -> tuple[int, bytes]:
    """Where to write, and what: every record below ``number`` is done with."""
    rest = struct.pack(">QQ", turn, number)
    return turn % 2 * _SLOT, b"%b%b%b" % (_CURSOR, struct.pack(">I", crc32(rest)), rest)


def cursor_of(data: bytes) -> tuple[int, int] | None:
    """Turn and number that were written last; None where neither place can be read."""
    found = []
    for at in (0, _SLOT):
        slot = data[at : at + _cursor.size]
        if len(slot) == _cursor.size and slot[:4] == _CURSOR:
            _, checksum, turn, number = _cursor.unpack(slot)
            if crc32(slot[8:]) == checksum:
                found.append((turn, number))
    return max(found, default=None)
