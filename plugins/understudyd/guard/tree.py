"""Find what a process has started, and kill it without hitting anybody else.

Rules
* The killer is a child subreaper: whatever loses its parent below it becomes its child, whatever
  started sessions of its own, changed its user or forked twice. And a child does not vanish before
  its parent has reaped it. So "no child left to wait for" proves that nothing is left, and so does
  a look at all processes that finds no child, as nobody reaps while it lasts.
* A pid is only a number, and may be somebody else's by the time it is used. A signal goes through
  a pidfd, and only after the process behind it has proven to be the one that was found.
* RabbitMQ starts epmd, which other nodes of this machine use as well. It is spared when it is
  proven not to have the lock open.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

__all__ = [
    "Process",
    "descendants",
    "fence_orphans",
    "is_spared",
    "kill",
    "look",
    "marked",
    "reap",
]

SPARED = "epmd"
PAUSE = 0.002  # s, between two looks at whether they are dead


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    group: int  # of processes
    started: int  # clock ticks since boot
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def descendants(root: int, spare: Collection[int] = ()) -> list[Process]:
    """Everything below ``root``, parents before their children; zombies too.

    Not those children of it that are to be spared, and what is below them.
    """
    children: dict[int, list[Process]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = look(int(name))
            if process is not None and (process.parent != root or process.pid not in spare):
                children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    parents = [root]
    while parents:
        below = [child for parent in parents for child in children.get(parent, ())]
        found += below
        parents = [child.pid for child in below]
    return found


def marked(mark: bytes) -> list[Process]:
    """Whatever was started with this among its variables, whoever its parent is by now.

    As far as we may look; and not what was given an environment of its own.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = look(int(name))  # before, so that a pid used again shows
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if process is not None and mark in file.read().split(b"\0"):
                    found.append(process)
    return found


def kill(victims: Iterable[Process]) -> None:
    """SIGKILL to each that is still the process that was found.

    What is another user's now, and not ours to kill, is left.
    """
    for victim in victims:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            descriptor = os.pidfd_open(victim.pid)
            try:
                there = look(victim.pid)
                if there is not None and there.started == victim.started:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


def reap() -> tuple[dict[int, int], bool]:
    """Wait for children that have ended: their exit statuses by pid, and whether any child is left.

    A status is the exit code, or -N for signal N.
    """
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = os.waitstatus_to_exitcode(status)


def is_spared(process: Process, lock: int | None) -> bool:
    """Whether this is an epmd that provably does not have the file of ``lock`` open."""
    if process.name != SPARED:
        return False
    folder = f"/proc/{process.pid}/fd"
    try:
        if os.path.basename(os.readlink(f"/proc/{process.pid}/exe")) != SPARED:
            return False
        mine = None if lock is None else os.fstat(lock)
        for name in os.listdir(folder):
            theirs = os.stat(f"{folder}/{name}")
            if mine is not None and os.path.samestat(mine, theirs):
                return False
    except OSError:
        return False  # not proven
    return True


def fence_orphans(owned: set[int], patience: float) -> tuple[str, ...]:
    """Kill what became our child without being ``owned``, and all below it; what is left of it.

    Takes up to ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        orphans = [
            process
            for process in descendants(os.getpid(), spare=owned)
            if not is_spared(process, None)
        ]
        kill(orphans)
        for orphan in orphans:
            with contextlib.suppress(ChildProcessError):  # of a child of ours it is too early
                os.waitpid(orphan.pid, os.WNOHANG)
        if not orphans or time.monotonic() >= deadline:
            return tuple(map(str, orphans))
        time.sleep(PAUSE)


def look(pid: int) -> Process | None:
    """None: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # the name stands in brackets and may contain anything
    before, _, after = text.rpartition(b")")
    name = before.partition(b"(")[2].decode(errors="replace")
    fields = after.split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[19]), name)
