"""Messages as a bridge holds them: bodies stay what they came as until somebody asks."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.content import AmqpContent, StompContent


def framed(pieces: list[bytes]) -> bytes:
    return b"".join(struct.pack(">BHI", 3, 1, len(p)) + p + b"\xce" for p in pieces)


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5))
def test_body_frames_join_to_the_body(pieces: list[bytes]) -> None:
    frames = framed(pieces)
    content = AmqpContent(b"\0\0", frames=frames)
    assert content.body == b"".join(pieces)
    assert content.frames == frames  # still what another end of AMQP writes


def test_frames_are_joined_once() -> None:
    content = AmqpContent(b"\0\0", frames=framed([b"a", b"b"]))
    assert content.body is content.body


def test_a_body_that_came_joined_has_no_frames() -> None:
    content = AmqpContent(b"\0\0", b"body")
    assert (content.body, content.frames) == (b"body", None)


def test_a_body_is_given_in_one_form() -> None:
    with pytest.raises(ValueError, match="either"):
        AmqpContent(b"\0\0")
    with pytest.raises(ValueError, match="either"):
        AmqpContent(b"\0\0", b"", b"")


def test_the_length_of_a_stomp_body_is_said_by_its_header() -> None:
    assert StompContent({"content-length": "0"}, b"").has_length
    assert not StompContent({}, b"text").has_length


def test_what_is_shown_holds_no_content() -> None:
    shown = [
        repr(AmqpContent(b"\x80\0\x06secret", b"secret")),
        repr(AmqpContent(b"\0\0", frames=framed([b"secret"]))),
        repr(StompContent({"key": "secret"}, b"secret")),
    ]
    assert not any("secret" in text for text in shown)
    assert shown[2] == "<StompContent 1 headers, body of 6 bytes>"
