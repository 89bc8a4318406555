"""The fencer's deputy of one reign: does nothing until fencer and sidecar are both gone.

Rules
* A fencer that is gone alone is replaced by the sidecar, and what it may have left is fenced then.
  So the deputy waits: until the reign is over, which clears the deadline page; until the sidecar is
  dead too; or until the deadline, at which a sidecar without a fencer must be frozen and is ended.
* In the last two cases it becomes the fencer, and fences. If the sidecar's next fencer was there
  already and survived it, that one goes first: they take turns, and whoever has let the lock go
  clears the page, so the other finds nothing to do.
* It has no descriptor of the lock open: nothing but the fencer's own copy would be let go in time.
* A fencer that stands still ``slack`` after the deadline, at which it should have fenced, is ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from understudyd.clock import now
from understudyd.guard.page import Page
from understudyd.guard.system import harden, name_process, thaw_with_parent

__all__ = ["stand_by"]

LOOK = 0.2  # s between two looks at the page, once the fencer is gone


def stand_by(
    page: Page,
    token: int,
    sidecar: int,
    fencer: int,
    succeed: Callable[[], None],
    *,
    slack: float,
) -> NoReturn:
    """Of a process that the fencer has just forked; ``sidecar`` and ``fencer`` are pidfds.

    ``slack``: seconds beyond the deadline that the fencer gets; part of the timings' margin.
    """
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)  # the fencer's
        name_process("understudydeputy")
        thaw_with_parent()
        harden()
        _close_all_but((page.descriptor, sidecar, fencer))
        _outwait(page, token, fencer, slack)
        while page.read().token == token:
            if now() >= page.read().deadline:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(sidecar, signal.SIGKILL)
            if _wait(sidecar, LOOK):
                page.take_turn()
                if page.read().token == token:
                    succeed()
                break
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _outwait(page: Page, token: int, fencer: int, slack: float) -> None:
    """Until the fencer is gone."""
    pid = os.getppid()
    patience: float | None = 0.0
    while not _wait(fencer, patience):
        lease = page.read()
        left = lease.deadline + slack - now()
        if lease.token == token and left <= 0 and _is_stopped(pid):
            signal.pidfd_send_signal(fencer, signal.SIGKILL)
        patience = None if lease.token != token else left if left > 0 else LOOK


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    return False


def _wait(process: int, seconds: float | None) -> bool:
    """Whether it ends within so many seconds; None: for ever."""
    return bool(select.select([process], [], [], seconds)[0])


def _close_all_but(wanted: tuple[int, ...]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in wanted:
            with contextlib.suppress(OSError):  # the one by which the folder was read
                os.close(int(name))
