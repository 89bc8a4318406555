"""How fast a bridge may be: ``rate`` messages in a second, a token bucket. No I/O.

Rules
* Messages are charged when they are sent for the first time. What waits for its turn has not left
  the bridge, and the source is read meanwhile: one that is lost is known to be, and nothing is sent
  that it will deliver again.
* The window is what `SHARE` seconds bring, so that a slow bridge holds little and others can have
  the rest; so much is also saved up while nothing comes. Beside savings a `PART` of it goes at a
  time: the bucket goes into debt, and nothing more is sent until that is paid.
* The links of one way share a bucket. A link that takes while another is in debt adds to that, and
  waits for all of it; so the rate holds for all of them together.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

SHARE: Final = 0.1  # s
PART: Final = 4  # of the window; more parts are more wake-ups


class Pace:
    """Moments are those of the clock that the caller has, in seconds."""

    def __init__(self, rate: float) -> None:
        """``rate`` is messages in a second, above 0."""
        self.window = max(1, int(rate * SHARE))
        """Messages that may be in flight."""
        self._rate = rate
        self._tokens = float(self.window)
        self._at: float | None = None

    def allows(self, now: float) -> int:
        """How many may be sent by one that owes nothing."""
        self._earn(now)
        return max(0, int(self._tokens)) + max(1, self.window // PART)

    def take(self, count: int, now: float) -> float:
        """Charge so many messages; the seconds until more may be sent, 0 for at once."""
        self._earn(now)
        self._tokens -= count
        return max(0.0, -self._tokens / self._rate)

    def _earn(self, now: float) -> None:
        if self._at is not None:
            earned = max(0.0, now - self._at) * self._rate
            self._tokens = min(float(self.window), self._tokens + earned)
        self._at = now
