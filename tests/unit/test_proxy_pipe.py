"""One direction of the fault proxy: what passes when, and that cuts are exact to the byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.testing.frames import (
    BASIC_ACK,
    BASIC_NACK,
    BASIC_PUBLISH,
    BODY,
    HEADER,
    METHOD,
    MethodId,
    encode_frame,
)
from understudy.testing.proxy_cuts import ByteCut, Cut, FrameCut
from understudy.testing.proxy_pipe import Conditions, Pipe


def frame_cut(method: MethodId, nth: int = 1, *, before: bool = True) -> FrameCut:
    return FrameCut(
        method, nth, "up", before=before, how="rst", then=None, times=1, on_cancel=print
    )


def byte_cut(n_bytes: int) -> ByteCut:
    return ByteCut(n_bytes, "up", how="rst", then=None, times=1, on_cancel=print)


def pass_all(pipe: Pipe, now: float = 0.0) -> tuple[bytes, Cut | None]:
    """Let pass what may pass; a sink that takes all it is given."""
    passed = b""
    while True:
        step = pipe.next_step(now)
        if step is None or isinstance(step, Cut):
            return passed, step
        passed += step
        pipe.advance(len(step), now)


ACK = encode_frame(METHOD, 1, struct.pack(">HHQB", *BASIC_ACK, 1, 0))
NACK = encode_frame(METHOD, 1, struct.pack(">HHQB", *BASIC_NACK, 1, 0))
PUBLISH = (
    encode_frame(METHOD, 1, struct.pack(">HH", *BASIC_PUBLISH) + b"\0\0\0\1q\0")
    + encode_frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 5, 0))
    + encode_frame(BODY, 1, b"hello")
)
STREAM = NACK + PUBLISH + ACK + PUBLISH + NACK + ACK + NACK

CUTS = [
    (frame_cut(BASIC_ACK), len(NACK + PUBLISH)),
    (frame_cut(BASIC_ACK, before=False), len(NACK + PUBLISH + ACK)),
    (frame_cut(BASIC_ACK, 2), len(NACK + PUBLISH + ACK + PUBLISH + NACK)),
    (frame_cut(BASIC_PUBLISH, before=False), len(NACK + PUBLISH)),
    (frame_cut(BASIC_PUBLISH, 2), len(NACK + PUBLISH + ACK)),
    (frame_cut(BASIC_NACK), 0),
    (frame_cut(BASIC_NACK, 3, before=False), len(STREAM)),
]


@given(st.sampled_from(CUTS), st.sets(st.integers(1, len(STREAM) - 1)), st.booleans())
def test_an_aimed_cut_is_exact_however_the_stream_is_split(
    order: tuple[FrameCut, int], places: set[int], queue_all: bool
) -> None:
    cut, position = order
    cut.seen = 0
    pipe = Pipe("up", Conditions(frame_cuts=[cut]), {})
    ends = [*sorted(places), len(STREAM)]
    passed, due = b"", None
    for a, b in zip([0, *ends], ends, strict=False):
        pipe.feed(STREAM[a:b], 0.0)
        if not queue_all and due is None:
            piece, due = pass_all(pipe)
            passed += piece
    if due is None:
        piece, due = pass_all(pipe)
        passed += piece
    assert due is cut
    assert passed == STREAM[:position]


@given(st.integers(1, 40), st.lists(st.binary(min_size=1, max_size=9), min_size=1))
def test_a_byte_cut_is_exact_however_the_stream_is_split(n_bytes: int, pieces: list[bytes]) -> None:
    cut = byte_cut(n_bytes)
    pipe = Pipe("up", Conditions(byte_cuts=[cut]), {cut: n_bytes})
    for piece in pieces:
        pipe.feed(piece, 0.0)
    passed, due = pass_all(pipe)
    stream = b"".join(pieces)
    assert passed == stream[:n_bytes]
    assert due is (cut if len(stream) >= n_bytes else None)


def test_both_directions_share_a_budget() -> None:
    cut = ByteCut(5, "both", how="rst", then=None, times=1, on_cancel=print)
    conditions, budgets = Conditions(byte_cuts=[cut]), {cut: 5}
    up, down = Pipe("up", conditions, budgets), Pipe("down", conditions, budgets)
    up.feed(b"abc", 0.0)
    assert pass_all(up) == (b"abc", None)
    down.feed(b"defg", 0.0)
    assert pass_all(down) == (b"de", cut)
    up.feed(b"h", 0.0)
    assert pass_all(up) == (b"", None)


def test_a_cut_ordered_late_finds_what_is_queued_and_not_what_has_passed() -> None:
    conditions = Conditions()
    pipe = Pipe("up", conditions, {})
    pipe.feed(ACK + PUBLISH + ACK, 0.0)
    assert pipe.next_step(0.0) == ACK + PUBLISH + ACK
    pipe.advance(3, 0.0)
    cut = frame_cut(BASIC_ACK)
    conditions.frame_cuts.append(cut)
    assert pass_all(pipe) == ((ACK + PUBLISH)[3:], cut)


def test_an_ordered_cut_of_another_direction_changes_nothing() -> None:
    cut = frame_cut(BASIC_ACK)
    pipe = Pipe("down", Conditions(frame_cuts=[cut]), {})
    pipe.feed(ACK, 0.0)
    assert pass_all(pipe) == (ACK, None)


def test_a_cancelled_cut_lets_go() -> None:
    cut = frame_cut(BASIC_ACK, before=False)
    pipe = Pipe("up", Conditions(frame_cuts=[cut]), {})
    pipe.feed(ACK + NACK, 0.0)
    assert pass_all(pipe) == (ACK, cut)
    cut.is_armed = False
    assert pass_all(pipe) == (NACK, None)


def test_the_end_of_the_source_frees_the_beginning_of_a_frame() -> None:
    pipe = Pipe("up", Conditions(frame_cuts=[frame_cut(BASIC_ACK)]), {})
    pipe.feed(NACK + ACK[:10], 0.0)
    assert pass_all(pipe) == (NACK, None)
    pipe.finish("fin", 0.0)
    assert not pipe.is_drained(0.0)
    assert pass_all(pipe) == (ACK[:10], None)
    assert pipe.is_drained(0.0)


def test_a_delay_holds_each_chunk_and_the_end_and_keeps_the_order() -> None:
    pipe = Pipe("up", Conditions(delay=1.0), {})
    pipe.feed(b"one", 0.0)
    pipe.feed(b"two", 0.5)
    pipe.finish("fin", 0.75)
    assert pass_all(pipe, 0.9) == (b"", None)
    assert pipe.wake_at == 1.0
    assert pass_all(pipe, 1.0) == (b"one", None)
    assert pipe.wake_at == 1.5
    assert pass_all(pipe, 1.6) == (b"two", None)
    assert not pipe.is_drained(1.6)
    assert pipe.wake_at == 1.75
    assert pipe.is_drained(1.75)


def test_less_delay_passes_what_was_waiting() -> None:
    conditions = Conditions(delay=60.0)
    pipe = Pipe("up", conditions, {})
    pipe.feed(b"one", 0.0)
    assert pass_all(pipe, 1.0) == (b"", None)
    conditions.calm()
    assert pass_all(pipe, 1.0) == (b"one", None)


@pytest.mark.parametrize("rate", [10.0, 1000.0, 123456.0])
def test_a_throttle_keeps_to_its_rate(rate: float) -> None:
    pipe = Pipe("up", Conditions(rate=rate), {})
    size = int(rate * 2)
    pipe.feed(bytes(size), 0.0)
    passed, now = 0, 0.0
    while passed < size:
        passed += len(pass_all(pipe, now)[0])
        assert passed <= rate * (now + 0.02) + 1
        now = pipe.wake_at or now
    assert now <= 2.0


def test_a_full_pipe_asks_for_no_more() -> None:
    pipe = Pipe("up", Conditions(black_hole=True), {})
    while not pipe.is_full:
        pipe.feed(bytes(65536), 0.0)
    assert repr(pipe) == "<Pipe up, 0 passed, 1048576 queued>"
    assert pipe.next_step(0.0) == bytes(65536)  # whether it may pass at all is the link's business
    pipe.advance(65536, 0.0)
    assert not pipe.is_full


@pytest.mark.parametrize("nth", [0, -1])
def test_an_order_that_can_never_be_met_is_refused(nth: int) -> None:
    with pytest.raises(ValueError, match="counts from 1"):
        frame_cut(BASIC_ACK, nth)
    with pytest.raises(ValueError, match=r"reset\(\) cuts at once"):
        byte_cut(nth)
