"""Runs a command of the operator's: bounded in time, killed with all of its process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudyd.config.model import Command

__all__ = ["Outcome", "Running", "children", "run"]

KEPT = 300  # characters of output that are told
DYING = 0.1  # s after SIGKILL
_children: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    ok: bool
    detail: str  # the end of what it printed, or what went wrong


def children() -> set[int]:
    """The pids of the commands that run now, and of those that SIGKILL has not ended yet."""
    with _lock:
        _children[:] = [child for child in _children if child.poll() is None]
        return {child.pid for child in _children}


class Running:
    """A command under way, as `run` would run it; for who has more to do meanwhile."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: Path | None = None,
        descriptors: Sequence[int] = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        """``before`` is called in the new process, by who has no other threads, and raises nothing.
        Raises OSError when it can't be run."""
        # not a pipe, which what it leaves in the background would keep open
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        try:
            with _lock:
                self.process = subprocess.Popen(
                    argv,
                    env=dict(env),
                    cwd=cwd or "/",
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=descriptors,
                    preexec_fn=before,
                )
                _children.append(self.process)
        except BaseException:
            self._output.close()
            raise

    def wait(self, timeout: float) -> bool:
        """Whether it ends within so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
            return True
        return False

    def end(self) -> Outcome:
        """What it came to; one that has not ended is killed with its process group.

        What can't be killed, as it waits for a dead mount or is another user's by sudo, is left.
        """
        code = self.process.poll()
        if code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.wait(DYING)
        with self._output as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - 4 * KEPT))
            told = " ".join(output.read().decode(errors="replace").split())[-KEPT:]
        if code == 0:
            return Outcome(True, told)
        how = "no end in time" if code is None else _how(code)
        return Outcome(False, f"{how}: {told}" if told else how)


def run(command: Command, env: Mapping[str, str], *, cwd: Path | None = None) -> Outcome:
    """Run to the end, or to the command's limit. Raises nothing.

    What it leaves running in the background goes on, unless it took too long itself.
    """
    try:
        running = Running(command.argv, env, cwd=cwd)
    except (OSError, ValueError) as error:  # a NUL, in what another node calls itself
        why = error.strerror if isinstance(error, OSError) else error
        return Outcome(False, f"can't run {command.argv[0]}: {why}")
    running.wait(command.timeout)
    return running.end()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
