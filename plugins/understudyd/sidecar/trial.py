"""The trial of a successor, while nothing has been given up for it yet.

Rules
* It is the command line, the environment and the folder of the exec, but for the variable `ASKED`.
  So whatever is broken by now is found: the script, the interpreter, a library, the file.
* Asked, a sidecar reads the configuration, puts its parts together, and says which legacy it
  understands: one line of JSON. It starts nothing.
* The file is read once, before. What was tried is what the successor begins with, whatever the file
  has become by then. Other files that it names, as ``token_file``, are read again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from understudy.errors import ConfigurationError
from understudyd.sidecar.legacy import FORMAT
from understudyd.sidecar.successor import CONFIGURATION, hidden

__all__ = ["Trial", "answer", "is_asked", "try_out"]

ASKED = "UNDERSTUDY_TRIAL"
PATIENCE = 60.0  # s for the trial
DYING = 1.0  # s after SIGKILL


@dataclass(frozen=True)
class Trial:
    trouble: str = ""
    took: float = 0.0  # s
    configuration: bytes = field(default=b"", repr=False)  # what the file had in it; it has secrets


def try_out(file: Path) -> Trial:
    """Whether what would be started by now could take over. Blocks; raises nothing."""
    begun = time.monotonic()
    try:
        configuration = file.read_bytes()
    except OSError as error:
        return Trial(f"{file}: can't be read: {error.strerror}")
    try:
        out, errors = _run(configuration)
        said = json.loads((out.splitlines() or [""])[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        return Trial(f"what is installed does not start: {error}")
    except ValueError:
        said = None
    if not isinstance(said, dict):
        last = (errors.strip().splitlines() or ["it says nothing"])[-1]
        return Trial(f"what is installed does not start: {last}")
    if said.get("trouble"):
        return Trial(said["trouble"])
    if said.get("format") != FORMAT:
        return Trial("what is installed can't take over from this version: use switchover")
    return Trial(took=time.monotonic() - begun, configuration=configuration)


def _run(configuration: bytes) -> tuple[str, str]:
    """What it prints. One that takes too long, and can't be killed, is not waited for."""
    descriptor = hidden("understudy-configuration", configuration)
    try:
        trial = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, ASKED: "1", CONFIGURATION: str(descriptor)},
            pass_fds=[descriptor],
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    try:
        return trial.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trial.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            trial.communicate(timeout=DYING)
        raise


def is_asked() -> bool:
    """Whether this process is a trial."""
    return ASKED in os.environ


def answer(put_together: Callable[[], object]) -> None:
    """Of a trial. ``put_together`` raises ConfigurationError where this sidecar can't be run."""
    said: dict[str, object] = {"format": FORMAT}
    try:
        put_together()
    except ConfigurationError as error:
        said["trouble"] = str(error)
    print(json.dumps(said), flush=True)
