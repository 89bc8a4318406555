"""The wire when an exception of a signal handler comes in the middle of a write."""

from __future__ import annotations

import socket
from functools import partial

from understudy.stomp import wire
from understudy.stomp.wire import Wire
from understudy.testing.interrupting import is_interrupted


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
            was_interrupted = is_interrupted(partial(it.send, b"ack"), line, wire.__file__)
            assert it.severed or not it.waiting_bytes, f"interrupted at line {line}"
            assert it.severed or not it._waiting, f"interrupted at line {line}"
            it.close()
    assert line > 5
