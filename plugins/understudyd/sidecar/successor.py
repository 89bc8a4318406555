"""The sidecar that takes this one's place in the same process, while the broker runs on.

Rules
* Only an exec that was announced to the guards spares the broker. Whatever goes wrong after it is
  the death of a sidecar, or its silence until the deadline, and ends as these do.
* So what is installed by now is tried before: a process of its own reads the configuration, and
  says which legacy it understands.
* From before the exec until the successor listens to signals they are held back, not lost. What
  another thread takes before the exec ends it is noted, and raised again after it.

``python -m understudyd.sidecar.successor FILE GROUP/NODE`` is that trial: one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import ConfigurationError
from understudyd.sidecar.legacy import FORMAT, Legacy

__all__ = ["SIGNALS", "Trial", "inherited", "noted", "replace", "try_out"]

VARIABLE = "UNDERSTUDY_LEGACY"  # the number of a descriptor, as is
NOTES = "UNDERSTUDY_SIGNALS"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
PATIENCE = 60.0  # s for the trial
DYING = 1.0  # s after SIGKILL


@dataclass(frozen=True)
class Trial:
    trouble: str = ""
    took: float = 0.0  # s


def try_out(file: Path, address: str) -> Trial:
    """Whether the sidecar that is installed by now could take over. Blocks; raises nothing."""
    begun = time.monotonic()
    argv = [sys.executable, "-m", __name__, str(file), address]
    if _is_gone(sys.argv[0]):
        return Trial(f"{sys.argv[0]}, by which this sidecar was started, is not there any more")
    try:
        out, errors = _run(argv)
        said = json.loads(out)
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
    return Trial(took=time.monotonic() - begun)


def _is_gone(program: str) -> bool:
    """A script that the exec would start once more, as opposed to what ``python -m`` finds."""
    is_script = getattr(sys.modules["__main__"], "__spec__", None) is None
    return is_script and os.path.isabs(program) and not os.access(program, os.R_OK)


def _run(argv: Sequence[str]) -> tuple[str, str]:
    """What it prints. One that takes too long, and can't be killed, is not waited for."""
    trial = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    try:
        return trial.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        trial.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            trial.communicate(timeout=DYING)
        raise


def replace(legacy: Legacy | None, is_wanted: Callable[[], bool]) -> None:
    """Become what is installed by now. Returns if it is not wanted any more once signals are held
    back. Raises OSError where it can't be started; then everything is as before."""
    environment = dict(os.environ)
    memory = None
    notes, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    try:
        if not is_wanted():
            return
        os.set_inheritable(notes, True)
        environment[NOTES] = str(notes)
        if legacy is not None:
            memory = os.memfd_create("understudy-legacy", 0)
            os.pwrite(memory, legacy.to_json().encode(), 0)
            environment[VARIABLE] = str(memory)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    finally:
        signal.set_wakeup_fd(-1)
        for descriptor in (notes, end, *([] if memory is None else [memory])):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def inherited() -> Legacy | None:
    """What the sidecar before has left to this one. Raises ConfigurationError."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        with open(int(number), "rb") as memory:
            memory.seek(0)
            return Legacy.from_json(memory.read())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{VARIABLE} = {number!r} is no legacy: {error}") from error


def noted() -> list[int]:
    """The signals that came too late for the sidecar before; none where there was none."""
    notes = os.environ.pop(NOTES, "")
    if not notes.isdecimal():
        return []
    with contextlib.suppress(OSError), open(int(notes), "rb", buffering=0) as pipe:
        return [number for number in pipe.read(64) or b"" if number in SIGNALS]
    return []


def main() -> None:
    # what a sidecar consists of, so that what is missing is told
    from understudyd.sidecar import service, settings

    said: dict[str, object] = {"format": FORMAT, "of": service.__name__}
    try:
        settings.read(Path(sys.argv[1]), sys.argv[2])
    except ConfigurationError as error:
        said["trouble"] = str(error)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
