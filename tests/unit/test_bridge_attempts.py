"""What a retry of parked messages tries, and what it finds again."""

from __future__ import annotations

from understudyd.bridge.attempts import Attempts, Mark, mark_of
from understudyd.bridge.unparking import Note


def mark(body: bytes, at: int | None = 1, reason: str = "refused") -> Mark:
    return mark_of(Note(reason, "", "orders", "queue://orders", at, len(body)), body)


def test_what_lies_there_is_tried_once_and_what_comes_back_is_not() -> None:
    attempts = Attempts([mark(b"a"), mark(b"b")])
    assert attempts.take(mark(b"a"))
    attempts.sent(mark(b"a"))
    assert not attempts.take(mark(b"a", at=2))
    assert not attempts.take(mark(b"a"))
    assert (attempts.count, attempts.left, attempts.moved) == (2, 1, 1)
    assert attempts.take(mark(b"b"))
    assert not attempts.left


def test_equal_messages_are_tried_as_often_as_they_are_there() -> None:
    attempts = Attempts([mark(b"same")] * 3)
    assert [attempts.take(mark(b"same")) for _ in range(4)] == [True, True, True, False]


def test_one_that_does_not_tell_when_it_was_parked_is_known_when_it_is_back() -> None:
    attempts = Attempts([mark(b"a", at=None)])
    assert attempts.take(mark(b"a", at=None))
    assert not attempts.take(mark(b"a", at=7))


def test_what_was_sent_and_lies_there_again_is_not_sent() -> None:
    attempts = Attempts([mark(b"a"), mark(b"b"), mark(b"stays")])
    for body in (b"a", b"b"):
        assert attempts.take(mark(body))
        attempts.sent(mark(body))
    there = [mark(b"stays"), mark(b"new", at=9), mark(b"a", at=9, reason="again")]
    assert attempts.came_back(there) == ["again"]
    assert attempts.came_back([mark(b"a", at=8), mark(b"a", at=9)]) == ["refused"]
