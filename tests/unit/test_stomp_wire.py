"""The wire when an exception of a signal handler comes in the middle of a write."""

from __future__ import annotations

import socket
import sys
from types import FrameType
from typing import Any

from understudy.stomp import wire
from understudy.stomp.wire import Wire


class Alarm(BaseException):
    pass


def interrupted_send(it: Wire, data: bytes, line: int) -> bool:
    """Send, and raise before the nth line of the wire's; whether it has so many."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != wire.__file__:
            return None
        if event == "line":
            count += 1
            if count == line:
                raise Alarm
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        it.send(data)
    except Alarm:
        return True
    finally:
        sys.settrace(before)
    return False


def test_nothing_waits_for_ever_on_a_wire_that_is_not_severed() -> None:
    """Later writes would queue up behind it while the reading thread sleeps."""
    line, was_interrupted = 0, True
    while was_interrupted:
        line += 1
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            it = Wire()
            it._take(ours)
            was_interrupted = interrupted_send(it, b"ack", line)
            assert it.severed or not it.waiting_bytes, f"interrupted at line {line}"
            assert it.severed or not it._waiting, f"interrupted at line {line}"
            it.close()
    assert line > 5
