"""An exception in the middle of a call, as a signal handler may raise one between any two lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Alarm", "is_interrupted"]


class Alarm(BaseException):
    """What the handler raises."""


def is_interrupted(call: Callable[[], object], line: int, within: str) -> bool:
    """Make a call that raises Alarm before the nth line of it in files whose path holds ``within``.

    False when there are not so many lines: then the call has come to its end.
    """
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if within not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count == line:
                raise Alarm
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except BaseException:
        if count < line:
            raise
        return True
    finally:
        sys.settrace(before)
    return False
