"""Who reads a connection: its own thread, or the caller who waits for his receipt.

Waking another thread costs more than reading: so where one caller sends at a time, and nothing
comes that nobody asked for, the thread parks and the caller reads his receipt himself.

Rules
* This only says who polls. Reading itself has a lock of its own (`Inner.reading`), so a wrong
  answer here costs a moment and loses nothing: what has come stays readable for the next who polls.
* Only a caller whose message is the only one on its way reads. A second one sends the thread back
  to work, for `CROWDED`.
* A parked thread looks every `PARKED` whether a caller was at work meanwhile; if not, it reads. So
  the end of a connection that nobody uses is noticed, and a caller whose signal handler raises, or
  does not end, while he polls holds nothing up. One that does not end while he takes in what has
  come holds up everybody, as it holds `Inner.reading`.

Pure; the session's lock is held.
"""

from __future__ import annotations

import math

__all__ = ["PARKED", "SLICE", "Turns"]

SLICE = 0.1  # s between two looks of a caller who waits; if he reads, he shows that he is at work
PARKED = 0.25  # s; more than a slice
CROWDED = 1.0  # s; handing over twice for each message would cost more than it gains


class Turns:
    def __init__(self) -> None:
        self.is_parked = False
        self._reader: object = None  # the message whose sender reads
        self._signs = self._seen = 0  # of callers at work
        self._crowded_until = -math.inf  # monotonic

    def joins(self, message: object, is_alone: bool, now: float) -> bool:
        """Its sender begins to wait; whether he reads himself. If not, the thread is to be woken.

        ``is_alone``: no other message is on its way or waits.
        """
        self._signs += 1
        if not is_alone:
            self._crowded_until = now + CROWDED
            return False
        if not self.is_parked:
            return False
        self._reader = message
        return True

    def goes_on(self) -> None:
        """The caller who reads is at work; this needs no lock."""
        self._signs += 1

    def leaves(self, message: object) -> None:
        """He reads no more; this needs no lock."""
        if self._reader is message:
            self._reader = None

    def parks(self, is_quiet: bool, is_idle: bool, now: float) -> bool:
        """Whether the thread leaves the next bytes to a caller.

        ``is_quiet``: nothing comes but receipts of messages; ``is_idle``: none is awaited.
        """
        was_busy, self._seen = self._signs != self._seen, self._signs
        has_reader = is_idle or self._reader is not None
        self.is_parked = is_quiet and was_busy and has_reader and now >= self._crowded_until
        return self.is_parked
