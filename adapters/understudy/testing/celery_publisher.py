"""Sends tasks as fast as it is told to, until SIGTERM; run as a process of its own.

``python -m understudy.testing.celery_publisher RATE FILE`` with the environment of
`celery_app`. FILE gets one line for each thing: ``sent ID SECONDS`` once `delay()` has returned,
``failed ERROR``, ``on ENDPOINT`` with each new connection, ``pace CALLS SECONDS`` about every
second, and at last ``done COUNT SECONDS``.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
import time
from typing import Any

from understudy.core.events import Connected, Resumed
from understudy.testing.celery_app import make_app

__all__ = ["main"]


class Pace:
    """How many calls were done in each second."""

    def __init__(self) -> None:
        self._since, self._calls = time.monotonic(), 0

    def after(self, calls: int) -> str:
        """The line to write after so many calls; empty before a second is over."""
        took = time.monotonic() - self._since
        if took < 1.0:
            return ""
        line = f"pace {calls - self._calls} {took:.3f}\n"
        self._since, self._calls = self._since + took, calls
        return line


def main(rate: float, file: str) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    with open(file, "w", buffering=1, encoding="utf-8") as out:

        def tell(event: object) -> None:
            if isinstance(event, (Connected, Resumed)):
                out.write(f"on {event.endpoint}\n")

        settings: dict[str, Any] = json.loads(os.environ["UNDERSTUDY_CELERY"])
        settings["broker_transport_options"] = {"understudy": {"on_event": tell}}
        with make_app(settings) as app:
            mark = app.tasks["tests.mark"]
            began = due = time.monotonic()
            pace = Pace()
            for number in itertools.count():
                if stopping:
                    break
                out.write(pace.after(number))
                due = max(due + 1 / rate, time.monotonic())  # what an outage cost is not made up
                time.sleep(max(due - time.monotonic(), 0))
                start = time.monotonic()
                try:
                    sent = mark.delay(number).id
                except Exception as exc:
                    out.write(f"failed {type(exc).__name__}: {exc}\n".replace("\n", " ") + "\n")
                else:
                    out.write(f"sent {sent} {time.monotonic() - start:.6f}\n")
        out.write(f"done {number} {time.monotonic() - began:.3f}\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    main(float(sys.argv[1]), sys.argv[2])
