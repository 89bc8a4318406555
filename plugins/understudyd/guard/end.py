"""Control's end of the wire to one guard, and how guards are started."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

from understudyd.guard.wire import Wire
from understudyd.guard.words import Leave, Message, Ready

__all__ = ["FROZEN", "End", "spawn", "wait_readable"]

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from understudyd.guard.watcher import main; main()"
)
FROZEN = 3.0  # s without a sign of life, of which there is one each second: it is killed


class End:
    """One guard: its wire, its process, and when it was heard of."""

    def __init__(self, name: str, wire: Wire, pid: int = 0, process: int = -1) -> None:
        """``process`` is its pidfd, as far as it is known before the guard says so itself."""
        self.name = name
        self.wire = wire
        self.pid = pid
        self.process = process
        self.is_up = False
        self.is_alive = True
        self.status: int | None = None  # if it was our child
        self.cause = ""
        self._looked_at = -math.inf
        self._sign = b""  # as it was seen last,
        self._signed_at = -math.inf  # and when we first saw that
        self._is_open = True
        self.is_sent_away = False

    def register(self, poll: select.epoll) -> None:
        poll.register(self.wire.fileno(), select.EPOLLIN)
        if self.process >= 0:
            poll.register(self.process, select.EPOLLIN)

    def doubt(self, sign: bytes, moment: float) -> None:
        """Kill the guard if its sign of life has been the same for too long.

        To be called again and again, within `FROZEN`: who comes later was frozen itself, perhaps
        together with the guard, and has to give it the time anew.
        """
        if not self.is_up or not self.is_alive or not self._is_open:
            return
        were_we_frozen = moment - self._looked_at > FROZEN
        self._looked_at = moment
        if sign != self._sign or were_we_frozen:
            self._sign, self._signed_at = sign, moment
        elif moment - self._signed_at > FROZEN and not self.cause:
            self.cause = f"was frozen for more than {FROZEN:g} s"
            signal.pidfd_send_signal(self.process, signal.SIGKILL)

    def send_away(self) -> None:
        """To be called until it is gone: a watcher that does not know yet that its guard is gone
        does not listen."""
        if self._is_open:
            self.is_sent_away = True
            with contextlib.suppress(OSError):
                self.wire.send(Leave())

    def receive(self, poll: select.epoll) -> list[Message]:
        messages: list[Message] = []
        try:
            while self._is_open and (received := self.wire.receive()) is not None:
                message, descriptors = received
                if isinstance(message, Ready):
                    self._came_up(message, descriptors, poll)
                else:
                    messages.append(message)
        except EOFError:
            self.hang_up(poll)
        return messages

    def _came_up(self, ready: Ready, descriptors: list[int], poll: select.epoll) -> None:
        self.is_up = True
        if self.process < 0:
            self.pid, self.process = ready.pid, descriptors.pop()
            poll.register(self.process, select.EPOLLIN)
        for descriptor in descriptors:
            os.close(descriptor)

    def look(self, poll: select.epoll) -> None:
        """Whether the process is alive."""
        if self.process < 0:
            if not self._is_open:
                self.is_alive = False
                self.cause = "did not come up"
            return
        if not self.is_alive or not wait_readable(self.process, 0.0):
            return
        self.is_alive = False
        poll.unregister(self.process)
        self._reap()
        how = "" if self.status is None else f" (exit status {self.status})"
        self.cause = self.cause or f"died{how}"

    def hang_up(self, poll: select.epoll) -> None:
        if self._is_open:
            self._is_open = False
            poll.unregister(self.wire.fileno())
            self.wire.close()

    def close(self, poll: select.epoll) -> None:
        self.hang_up(poll)
        if self.process < 0:
            return
        if self.is_alive:
            poll.unregister(self.process)
        elif self.status is None:
            self._reap()  # the watcher's end may have made it our child
        os.close(self.process)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)


def spawn(inherited: Sequence[int]) -> int:
    """The watcher: an interpreter of its own, as a fork would copy the locks of our threads."""
    path = json.dumps([entry or os.getcwd() for entry in sys.path])
    numbers = [str(number) for number in (*inherited, os.getpid())]
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        *((os.POSIX_SPAWN_DUP2, number, number) for number in inherited),
    ]
    argv = [sys.executable, "-I", "-c", BOOT, path, *numbers]
    return os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setsid=True)


def wait_readable(descriptor: int, deadline: float) -> bool:
    """Whether it is, now or until ``deadline`` (CLOCK_MONOTONIC)."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0) * 1000))
