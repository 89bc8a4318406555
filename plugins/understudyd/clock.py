"""The clock that deadlines are counted by.

CLOCK_BOOTTIME: nobody sets it, it goes on while the machine sleeps, and all processes of a machine
share it.
"""

from __future__ import annotations

import time

__all__ = ["now"]


def now() -> float:
    """This moment, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
