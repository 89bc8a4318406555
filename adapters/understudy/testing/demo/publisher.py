"""A process that calls ``work.delay()`` at a steady rate until SIGTERM and records every outcome.

It opens no connection by itself and handles no error in any special way: it is the application
that knows nothing of brokers. What it sends is recorded when ``delay()`` has returned, not before.
A call that takes longer than its slot delays the next one; nothing is caught up.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from understudy.testing.demo.app import work
from understudy.testing.demo.records import ERROR, FOLDER, GO, NAME, READY, SENT, Recorder

_is_asked_to_stop = False


def _stop(*_: object) -> None:
    global _is_asked_to_stop
    _is_asked_to_stop = True


def publish(recorder: Recorder, interval: float) -> None:
    """Send until asked to stop."""
    number = 0
    due = time.monotonic()
    while not _is_asked_to_stop:
        time.sleep(max(due - time.monotonic(), 0))
        begun = time.monotonic()
        try:
            task = work.delay(number)
        except Exception as error:  # whatever the caller of delay() would see
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            recorder.write(ERROR, text, begun, time.monotonic())
        else:
            recorder.write(SENT, task.id, begun, time.monotonic())
        number += 1
        due = max(due + interval, time.monotonic())


def main(interval: float) -> None:
    """Say ready, wait for the signal to begin, publish."""
    signal.signal(signal.SIGTERM, _stop)
    folder, name = Path(os.environ[FOLDER]), os.environ[NAME]
    recorder = Recorder(folder / f"{SENT}.{name}")
    (folder / f"{READY}.{name}").touch()
    while not (folder / GO).exists() and not _is_asked_to_stop:
        time.sleep(0.01)
    publish(recorder, interval)


if __name__ == "__main__":
    main(float(sys.argv[1]))
