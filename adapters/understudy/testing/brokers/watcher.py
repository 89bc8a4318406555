"""The process that stands between us and one server; run by path, standard library only.

Why it exists: RabbitMQ's helpers move into sessions of their own, so neither a process group nor a
session names all of a server. This process is a child subreaper: whatever a server forks stays
below it for ever, however it daemonises. Rules:

* It lives exactly as long as the process that started it. It watches that process itself, by
  pidfd, and not only the control socket, which a forked child of ours would keep open.
* When that process is gone, in whatever way, every descendant gets SIGKILL until none is left,
  then the temporary folder goes.
* Only direct children are killed, by number: their number cannot be reused before we reap them,
  and their orphans become our direct children. Nothing is ever looked up by name.

Control: one JSON object per line in, one per line out. ``do`` is one of spawn, kill, signal,
freeze, thaw, status.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_TICK = 0.002  # between two looks at the process table; a SIGKILL of a beam takes about 12 ms
_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The request could not be carried out; the text goes back to the caller."""


class Watcher:
    """The children of this process, seen as one server."""

    def __init__(self) -> None:
        self.main: int | None = None

    def spawn(self, argv: list[str], env: dict[str, str], cwd: str, log: str) -> int:
        """Start the server as a child; its output is appended to the file ``log``."""
        if self.main is not None:
            raise Refused(f"already running as process {self.main}")
        self.kill()  # helpers that outlived their server would hold its ports
        with open(log, "ab") as output:
            process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        process.returncode = 0  # reaped here with every other child, not by this object
        self.main = process.pid
        return process.pid

    def reap(self) -> bool:
        """Collect dead children; True while any child is left."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.main = None
                return False
            if pid == 0:
                return True
            if pid == self.main:
                self.main = None

    def kill(self) -> None:
        """SIGKILL and reap until this process has no child, hence no descendant."""
        while self.reap():
            for pid, parent in _parents().items():
                if parent == os.getpid():
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_TICK)

    def freeze(self) -> None:
        """Stop every thread of every descendant; return when all have stopped."""
        while running := [pid for pid in self.descendants() if not _is_stopped(pid)]:
            for pid in running:
                self.send(pid, signal.SIGSTOP)
            time.sleep(_TICK)

    def thaw(self) -> None:
        """Let every descendant go on."""
        for pid in self.descendants():
            self.send(pid, signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send a signal to the server's main process only."""
        self.reap()
        if self.main is not None:
            os.kill(self.main, number)

    def is_frozen(self) -> bool:
        """True when the main process is stopped."""
        return self.main is not None and _state(f"/proc/{self.main}/stat") in "Tt"

    def descendants(self) -> Iterator[int]:
        """Yield everything below this process, parents first."""
        children: dict[int, list[int]] = {}
        for pid, parent in _parents().items():
            children.setdefault(parent, []).append(pid)
        todo = list(children.get(os.getpid(), ()))
        while todo:
            pid = todo.pop(0)
            todo += children.get(pid, ())
            yield pid

    def send(self, pid: int, number: int) -> None:
        """Signal a descendant by pidfd: a grandchild's number may be reused at any time."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return  # gone
        try:
            if pid in self.descendants():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        self.reap()
        todo = request.pop("do")
        if todo == "status":
            return {"pid": self.main, "frozen": self.is_frozen()}
        if todo not in ("spawn", "kill", "freeze", "thaw", "signal"):
            raise Refused(f"unknown request {todo!r}")
        return {"done": getattr(self, todo)(**request)}


def _die_with_parent() -> None:
    """Between fork and exec: die too if the watcher itself is ever killed."""
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _fields(stat: str) -> list[str]:
    """The fields of a stat file after the name, which may itself hold blanks and brackets."""
    try:
        with open(stat, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _state(stat: str) -> str:
    """The state letter of a process or thread; X, dead, when it is gone."""
    return (_fields(stat) or ["X"])[0]


def _is_stopped(pid: int) -> bool:
    """True when no thread of a process can run."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return all(_state(f"/proc/{pid}/task/{thread}/stat") in "TtZX" for thread in threads)


def _parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _fields(f"/proc/{entry}/stat")):
            found[int(entry)] = int(fields[1])
    return found


def _requests(control: socket.socket, owner: int, watcher: Watcher) -> Iterator[dict[str, Any]]:
    """Yield requests until the owner is gone; reap children meanwhile."""
    alarm, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poller = select.poll()
    poller.register(alarm, select.POLLIN)
    poller.register(control, select.POLLIN)
    poller.register(os.pidfd_open(owner), select.POLLIN)
    if os.getppid() != owner:
        return  # it died before we could watch it
    pending = b""
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if alarm in ready:
            os.read(alarm, 4096)
            watcher.reap()
        if control.fileno() in ready:
            chunk = control.recv(65536)
            if not chunk:
                return
            pending += chunk
            *lines, pending = pending.split(b"\n")
            yield from map(json.loads, lines)
        elif ready != {alarm}:
            return  # the pidfd: the owner is dead


def main(descriptor: int, owner: int, folder: str) -> None:
    """Serve requests on the socket ``descriptor`` for the process ``owner``."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    control = socket.socket(fileno=descriptor)
    watcher = Watcher()
    try:
        if folder:
            os.mkdir(folder, 0o700)
        control.sendall(b"{}\n")
        for request in _requests(control, owner, watcher):
            try:
                reply = watcher.answer(request)
            except (Refused, OSError, subprocess.SubprocessError) as error:
                reply = {"error": str(error)}
            control.sendall(json.dumps(reply).encode() + b"\n")
    except ConnectionError:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        watcher.kill()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
