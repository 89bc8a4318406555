"""The sidecar that takes this one's place in the same process, while the broker runs on.

Rules
* Only an exec that was announced to the guards spares the broker. Whatever goes wrong after it is
  the death of a sidecar, or its silence until the deadline, and ends as these do.
* So what it will be is tried before, and it begins with the configuration of its trial (`trial`).
* From before the exec until the successor listens to signals they are held back, not lost. What
  another thread takes before the exec ends it is noted, and raised again after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from understudy.errors import ConfigurationError
from understudyd.sidecar.legacy import Legacy

__all__ = ["CONFIGURATION", "SIGNALS", "configuration", "hidden", "inherited", "noted", "replace"]

CONFIGURATION = "UNDERSTUDY_CONFIGURATION"  # the number of a descriptor, as are the next two
VARIABLE = "UNDERSTUDY_LEGACY"
NOTES = "UNDERSTUDY_SIGNALS"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def replace(legacy: Legacy | None, tried: bytes, is_wanted: Callable[[], bool]) -> None:
    """Become what is installed by now, with this configuration. Returns if it is not wanted any
    more once signals are held back. Raises OSError where it can't be started; then everything is
    as before."""
    environment = dict(os.environ)
    notes, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    opened = [notes, end]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    try:
        if not is_wanted():
            return
        left = {CONFIGURATION: hidden("understudy-configuration", tried), NOTES: notes}
        opened.append(left[CONFIGURATION])
        if legacy is not None:
            left[VARIABLE] = hidden("understudy-legacy", legacy.to_json().encode())
            opened.append(left[VARIABLE])
        for name, descriptor in left.items():
            os.set_inheritable(descriptor, True)
            environment[name] = str(descriptor)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    finally:
        signal.set_wakeup_fd(-1)
        for descriptor in opened:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def hidden(name: str, data: bytes) -> int:
    """A descriptor of memory that nobody else can read: there are secrets in it."""
    descriptor = os.memfd_create(name)
    with open(descriptor, "wb", closefd=False) as memory:
        memory.write(data)
    return descriptor


def inherited() -> Legacy | None:
    """What the sidecar before has left to this one. Raises ConfigurationError."""
    data = _taken(VARIABLE)
    if data is None:
        return None
    try:
        return Legacy.from_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{VARIABLE} is no legacy: {error}") from error


def configuration() -> bytes | None:
    """What was in the file when this sidecar was tried; None: it has to be read. Raises
    ConfigurationError."""
    return _taken(CONFIGURATION)


def _taken(variable: str) -> bytes | None:
    number = os.environ.pop(variable, None)
    if number is None:
        return None
    try:
        with open(int(number), "rb") as memory:
            memory.seek(0)
            return memory.read()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{variable} = {number!r} can't be read: {error}") from error


def noted() -> list[int]:
    """The signals that came too late for the sidecar before; none where there was none."""
    notes = os.environ.pop(NOTES, "")
    if not notes.isdecimal():
        return []
    with contextlib.suppress(OSError), open(int(notes), "rb", buffering=0) as pipe:
        return [number for number in pipe.read(64) or b"" if number in SIGNALS]
    return []
