"""Messages of a queue that must not be forwarded and stay where they are: those past their hop
limit, or excluded, where the broker could not keep them from us. No I/O.

    came ──> the source delivers no more ──> all of them go back to the tail of their queue
      ^                                                        │
      └────── the source delivers again <── a rest <───────────┘

Rules
* They are never parked and never settled away: each is published to the queue it came from, behind
  all others, and settled when that is confirmed. So it is in reach of its broker's own consumers,
  and what can be forwarded comes before it the next time. It does not live longer for that, but
  for a time to live that is its queue's: that begins anew.
* While they go back nothing is delivered, else the same ones would come again at once. When they
  are back, and those that could be forwarded have been, the round is over.
* A source that cannot stop delivering gets no acknowledgement until then, and delivers no more than
  its window; for the rest it is closed.
* A round in which more went back than on is followed by a rest: `RATE` of these in a second at
  most, and `SHORTEST` at least. With nothing else in the queue that is all that ever happens.
* The link is shown as holding from the first such round until one without, or until none of them
  comes any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["RATE", "SHORTEST", "Stays"]

RATE: Final = 100  # messages in a second that go back, where nothing goes on
SHORTEST: Final = 1.0  # s of a rest, and after it to see whether any are left


class Stays:
    """Of one link."""

    def __init__(self) -> None:
        self.is_holding = False
        """Whether it is these that the link has to do with."""
        self.is_resting = False
        """Whether the source is to deliver nothing."""
        self.is_away = False
        """Whether it is closed for that."""
        self.went = 0
        """How many went back, each time they did."""
        self._tags: set[int] = set()
        self._round = 0  # of those that went back, before this round
        self._forwarded = 0  # by the link, before this round

    def came(self, tags: Iterable[int]) -> bool:
        """These are to go back; whether the source is to be told to deliver no more."""
        self._tags.update(tags)
        was_resting, self.is_resting = self.is_resting, True
        return not was_resting

    def went_back(self, tag: int) -> bool:
        """Whether what has arrived in a queue of the source was one of these."""
        if tag not in self._tags:
            return False
        self._tags.discard(tag)
        self.went += 1
        return True

    def end_round(self, forwarded: int) -> float:
        """Everything is settled: how many seconds to rest. ``forwarded`` counts from the link's
        beginning."""
        excess = (self.went - self._round) - (forwarded - self._forwarded)
        self._round, self._forwarded = self.went, forwarded
        self.is_holding = excess > 0
        return max(SHORTEST, excess / RATE) if excess > 0 else 0.0

    def end_rest(self) -> bool:
        """The time is over; whether the source may deliver again. If it could before, then none of
        these has come since."""
        was_resting, self.is_resting = self.is_resting, False
        if not was_resting:
            self.is_holding = False
        return was_resting

    def forget(self) -> None:
        """The source was lost or closed: what did not go back yet is there."""
        self._tags.clear()
        self.is_resting = self.is_away = False
