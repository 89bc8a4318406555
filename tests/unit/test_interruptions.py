"""What a signal handler raises is told apart from what a call raises by itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from understudy.failover.interruptions import is_of_signal_handler, passing_over


class Ringing:
    def method(self, *_: Any) -> None:
        raise TimeoutError("of a method")

    def __call__(self, *_: Any) -> None:
        _deeper()


def function(*_: Any) -> None:
    raise TimeoutError("of a function")


def one_shot(*_: Any) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    raise TimeoutError("of a function that is registered no longer")


def one_shot_of_names(number: int, frame: FrameType | None) -> None:
    one_shot(number, frame)


def _deeper() -> None:
    raise TimeoutError("of what the handler called")


HANDLERS = [
    function,
    Ringing().method,
    Ringing(),
    partial(function, 1),
    one_shot,
    one_shot_of_names,
    partial(one_shot, 1),
]


@pytest.fixture(params=HANDLERS)
def ring(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    before = signal.signal(signal.SIGALRM, request.param)
    yield lambda: signal.raise_signal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


def test_wherever_it_comes(ring: Callable[[], None]) -> None:
    with pytest.raises(TimeoutError) as caught:
        ring()
    assert is_of_signal_handler(caught.value)
    assert not isinstance(caught.value, ValueError)


def test_it_is_not_passed_over(ring: Callable[[], None]) -> None:
    with pytest.raises(TimeoutError), passing_over(TimeoutError, ValueError):
        ring()


def test_what_a_call_raises_is_its_own(ring: Callable[[], None]) -> None:
    with pytest.raises(TimeoutError) as caught:
        _deeper()
    assert not is_of_signal_handler(caught.value)
    with passing_over(TimeoutError):
        _deeper()
    with pytest.raises(KeyError), passing_over(TimeoutError):
        {"a": 1}["x"]


def test_no_other_thread_runs_handlers(ring: Callable[[], None]) -> None:
    with pytest.raises(TimeoutError) as caught:
        ring()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(is_of_signal_handler(caught.value)))
    thread.start()
    thread.join()
    assert answers == [False]
