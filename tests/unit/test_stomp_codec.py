"""The STOMP wire format: what is written is read again, whole, byte by byte and in any pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.wire.stomp import HEARTBEAT, FrameParser, ProtocolError, RawFrame, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NAMES = TEXT.filter(bool)
COMMANDS = st.sampled_from(["MESSAGE", "RECEIPT", "ERROR", "SEND"])


def shown(frames: list[RawFrame]) -> list[tuple[str, dict[str, str], bytes]]:
    return [(f.command, f.headers, f.body) for f in frames if f.command != HEARTBEAT]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def fed(parser: FrameParser, parts: list[bytes]) -> list[RawFrame]:
    return [frame for part in parts for frame in parser.feed(part)]


@given(
    st.lists(
        st.tuples(COMMANDS, st.dictionaries(NAMES, TEXT, max_size=4), st.binary(max_size=40)),
        max_size=4,
    ),
    st.lists(st.integers(min_value=0), max_size=8),
    st.sampled_from(["1.1", "1.2"]),
)
def test_what_is_written_is_read_again_in_any_pieces(
    frames: list[tuple[str, dict[str, str], bytes]], cuts: list[int], version: str
) -> None:
    wanted = []
    data = b""
    for command, headers, body in frames:
        said = {**headers, "content-length": str(len(body))}
        wanted.append((command, said, body))
        data += encode(command, said, body, version=version) + b"\n"
    assert shown(fed(FrameParser(version), pieces(data, cuts))) == wanted


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0), max_size=5))
def test_no_input_makes_the_parser_fail_otherwise_than_with_a_protocol_error(
    data: bytes, cuts: list[int]
) -> None:
    parser = FrameParser(max_head=100, max_body=100)
    try:
        for part in pieces(data, cuts):
            parser.feed(part)
    except ProtocolError:
        pass


@given(st.binary(max_size=200))
def test_pieces_make_no_difference(data: bytes) -> None:
    def result(parts: list[bytes]) -> list[tuple[str, dict[str, str], bytes]] | str:
        try:
            return shown(fed(FrameParser(), parts))
        except ProtocolError as exc:
            return str(exc)

    whole = result([data])
    single = result([data[i : i + 1] for i in range(len(data))])
    assert whole == single


def test_a_body_of_bytes_keeps_its_nuls() -> None:
    body = bytes(range(256))
    data = encode("SEND", {"content-length": len(body)}, body)
    assert shown(FrameParser().feed(data)) == [("SEND", {"content-length": "256"}, body)]


def test_a_body_with_nul_needs_its_length() -> None:
    with pytest.raises(ValueError, match="content-length"):
        encode("SEND", {}, b"a\0b")


def test_an_empty_body_may_say_so() -> None:
    frames = FrameParser().feed(b"MESSAGE\ncontent-length:0\n\n\0\n")
    assert shown(frames) == [("MESSAGE", {"content-length": "0"}, b"")]


def test_the_first_of_repeated_headers_counts() -> None:
    [frame] = FrameParser().feed(b"MESSAGE\na:1\na:2\n\n\0")
    assert frame.headers == {"a": "1"}


def test_a_repeated_header_is_written_repeatedly() -> None:
    assert encode("SEND", {"a": ("1", "2"), "b": None}) == b"SEND\na:1\na:2\n\n\0"


def test_line_ends_may_be_those_of_windows() -> None:
    [frame] = FrameParser().feed(b"MESSAGE\r\na:1\r\nb:2\r\n\r\nbody\0")
    assert shown([frame]) == [("MESSAGE", {"a": "1", "b": "2"}, b"body")]


def test_a_windows_head_is_found_before_an_empty_line_of_the_body() -> None:
    [frame] = FrameParser().feed(b"MESSAGE\r\na:1\r\n\r\nbody\n\nmore\0")
    assert frame.body == b"body\n\nmore"


def test_names_and_values_are_escaped_but_not_in_connect() -> None:
    assert encode("SEND", {"a:b": "c\nd\\e\r"}) == b"SEND\na\\cb:c\\nd\\\\e\\r\n\n\0"
    assert encode("CONNECT", {"passcode": "a:b\\c"}) == b"CONNECT\npasscode:a:b\\c\n\n\0"
    with pytest.raises(ValueError, match="line end"):
        encode("CONNECT", {"login": "a\nevil:1"})


def test_an_unknown_escape_is_left_as_it_is() -> None:
    [frame] = FrameParser().feed(b"MESSAGE\na:x\\ty\n\n\0")
    assert frame.headers == {"a": "x\\ty"}


def test_header_bytes_that_are_no_text_survive() -> None:
    [frame] = FrameParser().feed(b"MESSAGE\na:\xff\n\n\0")
    assert encode("SEND", frame.headers) == b"SEND\na:\xff\n\n\0"


def test_line_ends_between_frames_are_heartbeats() -> None:
    parser = FrameParser()
    assert [f.command for f in parser.feed(b"\n")] == [HEARTBEAT]
    assert [f.command for f in parser.feed(b"\nRECEIPT\nreceipt-id:1\n\n\0\n")] == ["RECEIPT"]
    assert [f.command for f in parser.feed(b"\n\r\n")] == [HEARTBEAT]


@pytest.mark.parametrize(
    "data",
    [
        b"MESSAGE\ncontent-length:999999999999\n\n",
        b"MESSAGE\ncontent-length:-1\n\n",
        b"MESSAGE\ncontent-length:x\n\n",
        b"MESSAGE\ncontent-length:2\n\nabc\0",
        b"MESSAGE\nno colon\n\n\0",
        b"MESSAGE\0\n\n",
        b"MESSAGE\n" + b"a:b\n" * 1000,
        b"MESSAGE\n\n" + b"a" * 2000,
        b"\x16\x03\x01" + b"\xff" * 3000,
    ],
)
def test_a_lying_peer_is_found_out(data: bytes) -> None:
    parser = FrameParser(max_head=1000, max_body=1000)
    with pytest.raises(ProtocolError):
        parser.feed(data)


def test_many_small_pieces_cost_no_more_than_a_few_looks_each() -> None:
    parser = FrameParser()
    body = b"\0" * 300_000
    data = encode("MESSAGE", {"content-length": len(body)}, body)
    frames = [f for i in range(0, len(data), 100) for f in parser.feed(data[i : i + 100])]
    assert shown(frames)[0][2] == body


@pytest.mark.parametrize("end", [b"", b"\n", b"RECEIPT\nreceipt-id:4", b"MESSAGE\na:b\n\nbody\0"])
def test_receipts_that_come_together_are_one_frame_each(end: bytes) -> None:
    data = b"".join(b"RECEIPT\nreceipt-id:%d\n\n\0\n" % number for number in range(1, 4))
    frames = FrameParser().feed(data + end)
    assert [f.headers.get("receipt-id") for f in frames[:3]] == ["1", "2", "3"]
    assert [f.command for f in frames[3:]] == (["MESSAGE"] if end.endswith(b"\0") else [])


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("before", [b"", b"MESSAGE\na:1\n\n\0\n"])
def test_frames_read_alike_wherever_they_begin_in_a_read(before: bytes, line_end: bytes) -> None:
    """Whole ones at the front of a read are taken another way than those that were cut."""
    head = line_end.join([rb"MESSAGE", rb"x\cy:1\n\\n\t", b"x:first", b"x:second", b"", b""])
    data = before + head + b"body\0" + before
    wanted = {"x:y": "1\n\\n\\t", "x": "first"}
    for parts in ([data], [data[:3], data[3:]], [before, data[len(before) :]]):
        frames = fed(FrameParser(), parts)
        assert [f.headers for f in frames if f.body] == [wanted]


@pytest.mark.parametrize("step", [1, 1000])
def test_a_nul_among_the_headers_is_taken_for_one_where_that_is_asked(step: int) -> None:
    data = b"MESSAGE\na:x\0y\ncontent-length:1\n\nb\0\nMESSAGE\n\nc\0"
    parser = FrameParser(takes_nul=True)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    frames = [frame for piece in pieces for frame in parser.feed(piece)]
    assert [(f.headers, f.body) for f in frames if f.command == "MESSAGE"] == [
        ({"a": "x\0y", "content-length": "1"}, b"b"),
        ({}, b"c"),
    ]
    with pytest.raises(ProtocolError, match="within its headers"):
        FrameParser().feed(data)
