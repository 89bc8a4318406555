"""Process 1 of a container without an init: reaps whatever ends there, hands signals on.

The sidecar itself runs as a child, so that no wait of its own meets somebody else's child. If the
child ends, so does this process, and with it the container.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

__all__ = ["become_init"]

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)


def become_init() -> None:
    """Returns in the child, which goes on as the sidecar; never in process 1."""
    child = os.fork()
    if child == 0:
        return

    def hand_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in HANDED_ON:
        signal.signal(number, hand_on)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
