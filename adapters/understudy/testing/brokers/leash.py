"""Our end of a watcher process: start, signal and surely lose one server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_WATCHER = Path(__file__).with_name("watcher.py")
_PATIENCE = (
    180.0  # a process in uninterruptible sleep dies late; more than this is a broken machine
)


class LeashBroken(RuntimeError):
    """The watcher process of a server is gone, and the server with it."""


class Leash:
    """A server's processes, held so that they cannot outlive this process.

    ``folder``, when given, is created now and removed when the leash ends, be it by ``close()``,
    by the garbage collector or by the death of this process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        ours, theirs = socket.socketpair()
        arguments = [str(theirs.fileno()), str(os.getpid()), str(folder or "")]
        # -I: this folder must not come first on its path, where redis.py would shadow things.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WATCHER), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        theirs.close()
        ours.settimeout(_PATIENCE)
        self._lock = threading.Lock()
        self._socket = ours
        self._replies = ours.makefile("rb")
        self._end = weakref.finalize(self, _end, os.getpid(), self._process, ours, self._replies)
        self._receive()

    @property
    def watcher(self) -> int:
        """The process id of the watcher."""
        return self._process.pid

    @property
    def pid(self) -> int | None:
        """The server's main process, or None when it is not running."""
        return self._status()[0]

    @property
    def is_frozen(self) -> bool:
        """True while the server is stopped by a signal."""
        return self._status()[1]

    def spawn(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> int:
        """Start the server and return its process id; its output is appended to ``log``."""
        reply = self._ask("spawn", argv=list(argv), env=dict(env), cwd=str(cwd), log=str(log))
        return int(reply["done"])

    def kill(self) -> None:
        """SIGKILL everything the server ever started; return when all of it is reaped."""
        self._ask("kill")

    def freeze(self) -> None:
        """SIGSTOP all of the server; return when no thread of it can run."""
        self._ask("freeze")

    def thaw(self) -> None:
        """SIGCONT all of the server."""
        self._ask("thaw")

    def signal(self, number: int) -> None:
        """Send a signal to the server's main process."""
        self._ask("signal", number=int(number))

    def close(self) -> None:
        """Kill the server, remove the folder, end the watcher. Idempotent."""
        self._end()

    def _status(self) -> tuple[int | None, bool]:
        try:
            reply = self._ask("status")
        except LeashBroken:
            return None, False
        return reply["pid"], bool(reply["frozen"])

    def _ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        with self._lock:
            if not self._end.alive:
                raise LeashBroken("the leash is closed")
            try:
                self._socket.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
            except OSError as error:
                raise LeashBroken(f"the watcher process is gone: {error}") from error
            return self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._replies.readline()
        except OSError as error:
            raise LeashBroken(f"the watcher process does not answer: {error}") from error
        if not line:
            raise LeashBroken("the watcher process is gone")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply


def _end(owner: int, process: subprocess.Popen[bytes], ours: socket.socket, replies: Any) -> None:
    """Close our end, which ends the watcher; a forked copy of us only drops its descriptors."""
    replies.close()
    ours.close()
    if os.getpid() != owner:
        process.returncode = 0  # not our child: nothing to wait for, nothing to warn about
        return
    process.wait(_PATIENCE)
