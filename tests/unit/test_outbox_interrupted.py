"""The outbox when an exception of a signal handler comes in the middle of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from understudy.core import outbox
from understudy.core.outbox import Outbox
from understudy.testing.interrupting import is_interrupted


@pytest.mark.parametrize("step", ["written", "link_lost"])
def test_no_message_is_lost_and_none_is_twice_in_it(step: str) -> None:
    line, was_interrupted = 0, True
    while was_interrupted:
        line += 1
        it: Outbox[str] = Outbox(1000)
        for key in "abcd":
            it.offer(key, 1, key)
        it.written(it.next_unwritten(1)[0], 1)
        entry = it.next_unwritten(1)[0]
        calls = {"written": lambda: it.written(entry, 2), "link_lost": it.link_lost}  # noqa: B023
        was_interrupted = is_interrupted(calls[step], line, outbox.__file__)
        it.link_lost()
        assert it.keys() == list("abcd"), f"interrupted at line {line}"
    assert line > 3


@pytest.mark.parametrize("step", ["offer", "drop unwritten", "drop in flight"])
def test_the_bytes_and_the_count_are_those_of_what_is_in_it(step: str) -> None:
    """Else each interruption takes room away, or gives some that is not there."""
    line, was_interrupted = 0, True
    while was_interrupted:
        line += 1
        it: Outbox[str] = Outbox(1000)
        for key in "abcd":
            it.offer(key, 10, key)
        it.written(it.next_unwritten(1)[0], 1)
        calls: dict[str, Callable[[], object]] = {
            "offer": lambda: it.offer("e", 10, "e"),  # noqa: B023
            "drop unwritten": lambda: it.drop("b"),  # noqa: B023
            "drop in flight": lambda: it.drop("a"),  # noqa: B023
        }
        was_interrupted = is_interrupted(calls[step], line, outbox.__file__)
        left = it.keys()
        assert len(it) == len(left), f"interrupted at line {line}"
        assert it.bytes == 10 * len(left), f"interrupted at line {line}"
    assert line > 3
