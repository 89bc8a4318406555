"""How the lines of a long-running command look."""

from __future__ import annotations

import logging
import sys
from datetime import datetime

__all__ = ["log_to_stderr"]


class _Formatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Local time with its offset, as ISO 8601 writes it: other machines' logs are read too."""
        return (
            datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        )


def log_to_stderr(name: str, about: str) -> logging.Logger:
    """The logger of this name; ``about`` begins each line's text."""
    log = logging.getLogger(name)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)-7s {about}%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    return log
