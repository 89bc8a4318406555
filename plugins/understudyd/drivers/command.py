"""Runs a command of the operator's: bounded in time, killed with all of its process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from understudyd.config.model import Command

__all__ = ["Outcome", "children", "run"]

KEPT = 300  # characters of output that are told
_children: set[int] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    ok: bool
    detail: str  # the end of what it printed, or what went wrong


def children() -> set[int]:
    """The pids of the commands that run now."""
    with _lock:
        return set(_children)


def run(command: Command, env: Mapping[str, str], *, cwd: Path | None = None) -> Outcome:
    """Run to the end, or to the command's limit. Raises nothing.

    What it leaves running in the background goes on, unless it took too long itself.
    """
    with tempfile.TemporaryFile() as output:  # not a pipe, which the background would keep open
        try:
            process = _spawn(command, env, cwd, output)
        except OSError as error:
            return Outcome(False, f"can't run {command.argv[0]}: {error.strerror}")
        try:
            code = process.wait(command.timeout)
        except subprocess.TimeoutExpired:
            return Outcome(False, f"no end within {command.timeout:g} s")
        finally:
            _end(process)
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4 * KEPT))
        told = " ".join(output.read().decode(errors="replace").split())[-KEPT:]
    if code == 0:
        return Outcome(True, told)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Outcome(False, f"{how}: {told}" if told else how)


def _spawn(
    command: Command, env: Mapping[str, str], cwd: Path | None, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    with _lock:
        process = subprocess.Popen(
            command.argv,
            env=dict(env),
            cwd=cwd or "/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _children.add(process.pid)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with _lock:
        _children.discard(process.pid)
