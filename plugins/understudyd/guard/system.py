"""What Linux offers and Python does not: prctl, timers on CLOCK_BOOTTIME, mlockall, short turns."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import struct
import time

__all__ = [
    "OOM_SCORE",
    "Timer",
    "become_subreaper",
    "die_with_parent",
    "go_first",
    "harden",
    "name_process",
    "thaw_with_parent",
]

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
MCL_CURRENT = 1
MCL_ONFAULT = 4
TFD_TIMER_ABSTIME = 1
OOM_SCORE = "/proc/self/oom_score_adj"
OOM_NEVER = -1000
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the C library has no name for it before 2.41


class _Spec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Timer:
    """A descriptor that becomes readable at a moment of CLOCK_BOOTTIME, also out of a suspend."""

    def __init__(self) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.descriptor = _checked(_libc.timerfd_create(time.CLOCK_BOOTTIME, flags))
        self._at = math.inf

    def set(self, moment: float) -> None:
        """``moment`` in seconds; infinity switches it off."""
        if moment == self._at:
            return
        self._at = moment
        at_ns = 0 if moment == math.inf else max(round(moment * 1e9), 1)
        spec = _Spec(0, 0, *divmod(at_ns, 10**9))
        reference = ctypes.byref(spec)
        _checked(_libc.timerfd_settime(self.descriptor, TFD_TIMER_ABSTIME, reference, None))

    def clear(self) -> None:
        """To be called when it was readable."""
        self._at = math.nan
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 8)


def become_subreaper() -> None:
    """Whatever our descendants leave behind becomes our child, not init's."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with_parent() -> None:
    _checked(_libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))


def thaw_with_parent() -> None:
    """Go on when our parent dies, if we were stopped: nobody else does what is left to do."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0))


def name_process(name: str) -> None:
    """As ps and top show it; at most 15 bytes."""
    _checked(_libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0))


def harden() -> int:
    """Be the last to be killed, swapped out or kept waiting, as far as we are allowed to.

    Returns the OOM score adjustment from before, to give back to the broker.
    """
    _libc.mlockall(MCL_CURRENT | MCL_ONFAULT)
    with contextlib.suppress(OSError):
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    with open(OOM_SCORE, encoding="ascii") as file:
        before = int(file.read())
    with contextlib.suppress(OSError), open(OOM_SCORE, "w", encoding="ascii") as file:
        file.write(str(OOM_NEVER))
    return before


def go_first(niceness: int, turn: float) -> None:
    """Get the processor soon, for ``turn`` seconds at a time, as far as we are allowed to.

    Linux heeds the length of a turn since 6.12: who asks for short ones interrupts others.
    """
    number = SCHED_SETATTR.get(os.uname().machine)
    for nice in (niceness, os.getpriority(os.PRIO_PROCESS, 0)):
        asked = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, round(turn * 1e9), 0, 0)
        if number is not None and _libc.syscall(number, 0, asked, 0) == 0:
            return


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
