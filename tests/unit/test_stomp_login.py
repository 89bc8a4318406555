"""How a STOMP session begins: answers that brokers give, whole and byte by byte."""

from __future__ import annotations

import pytest

from understudy.wire.stomp import ProtocolError, RawFrame
from understudy.wire.stomp_login import LoginAnswer, LoginRefused, OtherProtocol, agree_on_beats

CONNECTED = b"CONNECTED\nserver:ActiveMQ/5.17.2\nheart-beat:0,0\nversion:1.2\n\n\0\n"


def answered(data: bytes, size: int) -> RawFrame | None:
    login = LoginAnswer("1.2")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return next((frame for piece in pieces if (frame := login.feed(piece))), None)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_connected_is_the_answer(size: int) -> None:
    frame = answered(b"\n" + CONNECTED, size)
    assert frame is not None
    assert frame.headers["server"] == "ActiveMQ/5.17.2"
    assert answered(CONNECTED[:-3], size) is None


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"ERROR\nmessage:Bad CONNECT\n\nAccess refused\0", LoginRefused, "Bad CONNECT: Access"),
        (b"AMQP\0\0\x09\x01", OtherProtocol, "AMQP"),
        (b"MESSAGE\n\n\0", ProtocolError, "answered CONNECT with 'MESSAGE'"),
        (CONNECTED.replace(b":1.2", b":1.1"), ProtocolError, r"STOMP 1\.1, not 1\.2"),
        (CONNECTED.replace(b"version:1.2\n", b""), ProtocolError, r"STOMP 1\.0, not 1\.2"),
        (b"x" * 70_000, ProtocolError, "bytes of headers"),
    ],
)
def test_another_answer_is_an_error(
    data: bytes, error: type[Exception], said: str, size: int
) -> None:
    with pytest.raises(error, match=said):
        answered(data, size)


def test_what_comes_with_connected_was_not_asked_for() -> None:
    with pytest.raises(ProtocolError):
        LoginAnswer("1.2").feed(CONNECTED + b"MESSAGE\n\n\0")


@pytest.mark.parametrize(
    ("ours", "told", "agreed"),
    [
        ((10_000, 5_000), "0,0", (0.0, 0.0)),
        ((10_000, 5_000), "5000,10000", (10.0, 5.0)),
        ((1_000, 500), "8000,3000", (3.0, 8.0)),
        ((0, 0), "8000,3000", (0.0, 0.0)),
        ((1_000, 1_000), "1000,-5,7", (0.0, 1.0)),
    ],
)
def test_the_slower_one_sets_the_heart_beats(
    ours: tuple[int, int], told: str, agreed: tuple[float, float]
) -> None:
    assert agree_on_beats(ours, told) == agreed


@pytest.mark.parametrize("told", ["", "x", "1", "1,x", f"{10**400},1"])
def test_a_heart_beat_that_is_none_is_refused(told: str) -> None:
    with pytest.raises(ProtocolError):
        agree_on_beats((1000, 1000), told)
