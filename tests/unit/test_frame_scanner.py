"""The frame scanner: whole, byte by byte, split anywhere, with trailing bytes, and not AMQP."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.testing.frames import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_PUBLISH,
    BODY,
    CHANNEL_OPEN,
    HEADER,
    HEARTBEAT,
    METHOD,
    Frame,
    FrameScanner,
    Mark,
    MethodId,
    encode_frame,
    take_frames,
)

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


def method(ids: MethodId, channel: int = 1, arguments: bytes = b"") -> bytes:
    return encode_frame(METHOD, channel, struct.pack(">HH", *ids) + arguments)


def content(ids: MethodId, *bodies: bytes, channel: int = 1) -> bytes:
    size = sum(map(len, bodies))
    header = encode_frame(HEADER, channel, struct.pack(">HHQH", 60, 0, size, 0))
    return method(ids, channel) + header + b"".join(encode_frame(BODY, channel, b) for b in bodies)


def scan(scanner: FrameScanner, *pieces: bytes) -> list[Mark]:
    return [mark for piece in pieces for mark in scanner.feed(piece)]


def in_steps(data: bytes, step: int) -> list[bytes]:
    return [data[at : at + step] for at in range(0, len(data), step)]


OPEN = method(CHANNEL_OPEN, arguments=b"\0")
PUBLISH = content(BASIC_PUBLISH, b"two ", b"bodies \xce")
EMPTY = content(BASIC_PUBLISH)
ACK = method(BASIC_ACK, arguments=bytes(9))
BEAT = encode_frame(HEARTBEAT, 0, b"")
STREAM = PROTOCOL_HEADER + OPEN + PUBLISH + BEAT + EMPTY + ACK


def expected() -> list[Mark]:
    marks = []
    at = len(PROTOCOL_HEADER)
    for ids, data in ((CHANNEL_OPEN, OPEN), (BASIC_PUBLISH, PUBLISH), (None, BEAT)):
        if ids is not None:
            marks += [Mark(True, ids, 1, at), Mark(False, ids, 1, at + len(data))]
        at += len(data)
    for ids, data in ((BASIC_PUBLISH, EMPTY), (BASIC_ACK, ACK)):
        marks += [Mark(True, ids, 1, at), Mark(False, ids, 1, at + len(data))]
        at += len(data)
    return marks


def test_a_whole_stream() -> None:
    scanner = FrameScanner()
    assert scan(scanner, STREAM) == expected()
    assert scanner.position == len(STREAM)
    assert scanner.undecided == 0


@pytest.mark.parametrize("step", [1, 2, 7, 10, 11, 12, 19])
def test_pieces_of_one_size(step: int) -> None:
    assert scan(FrameScanner(), *in_steps(STREAM, step)) == expected()


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_split_anywhere(places: set[int]) -> None:
    ends = [*sorted(places), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert scan(FrameScanner(), *pieces) == expected()


@pytest.mark.parametrize("trailing", range(1, len(ACK)))
def test_trailing_bytes_wait_for_the_rest(trailing: int) -> None:
    scanner = FrameScanner()
    begins = Mark(True, BASIC_ACK, 1, len(OPEN))
    ends = Mark(False, BASIC_ACK, 1, len(OPEN) + len(ACK))
    marks = scan(scanner, OPEN + ACK[:trailing])[2:]
    assert marks == ([begins] if trailing >= 11 else [])
    assert scanner.undecided == (0 if trailing >= 11 else trailing)
    assert marks + scan(scanner, ACK[trailing:]) == [begins, ends]


def test_a_beginning_is_told_before_the_frame_is_complete() -> None:
    assert scan(FrameScanner(), ACK[:11]) == [Mark(True, BASIC_ACK, 1, 0)]


@pytest.mark.parametrize("piece", [BEAT[:5], PUBLISH[:30], PROTOCOL_HEADER[:3], b""])
def test_only_an_unknown_method_is_undecided(piece: bytes) -> None:
    scanner = FrameScanner()
    scanner.feed(piece)
    assert scanner.undecided == 0


def test_content_of_two_channels_may_be_interleaved() -> None:
    one, two = content(BASIC_DELIVER, b"abc", channel=1), content(BASIC_DELIVER, b"de", channel=2)
    head = len(method(BASIC_DELIVER))
    marks = scan(FrameScanner(), one[:head] + two + one[head:])
    assert [(m.begins, m.channel) for m in marks] == [(True, 1), (True, 2), (False, 2), (False, 1)]
    assert marks[2].position == head + len(two)
    assert marks[3].position == len(one) + len(two)


def test_a_method_amid_content_gives_the_content_up() -> None:
    half = content(BASIC_PUBLISH, b"abc")[: -len(encode_frame(BODY, 1, b"abc"))]
    marks = scan(FrameScanner(), half + OPEN)
    assert [(m.begins, m.method) for m in marks] == [
        (True, BASIC_PUBLISH),
        (True, CHANNEL_OPEN),
        (False, CHANNEL_OPEN),
    ]


@pytest.mark.parametrize(
    "noise",
    [
        b"CONNECT\naccept-version:1.2\n\n\0",
        b"\x16\x03\x01 a TLS hello",
        b"AMQX\0\0\x09\x01",
        ACK[:-1] + b"\0",
        encode_frame(METHOD, 0, b"\0"),
    ],
)
def test_what_is_not_amqp_is_given_up(noise: bytes) -> None:
    for pieces in ([noise], in_steps(noise, 1)):
        scanner = FrameScanner()
        marks = scan(scanner, *pieces, ACK, ACK)
        assert scanner.is_lost
        assert not [mark for mark in marks if not mark.begins]
        assert scanner.undecided == 0
        assert scan(scanner, ACK) == []


def test_a_scanner_tells_its_state() -> None:
    scanner = FrameScanner()
    scanner.feed(ACK[:-3])
    assert repr(scanner) == f"<FrameScanner at {len(ACK) - 3}, 3 bytes left of a frame>"


def test_whole_frames_are_taken_and_the_rest_stays() -> None:
    buffer = bytearray(BEAT + ACK + OPEN[:-1])
    assert take_frames(buffer) == [Frame(HEARTBEAT, 0, b""), Frame(METHOD, 1, ACK[7:-1])]
    assert buffer == OPEN[:-1]
    buffer += OPEN[-1:]
    assert take_frames(buffer) == [Frame(METHOD, 1, OPEN[7:-1])]
    assert not buffer


def test_a_wrong_frame_end_is_refused() -> None:
    with pytest.raises(ValueError, match="frame ends with 0x00, not 0xce"):
        take_frames(bytearray(ACK[:-1] + b"\0"))
