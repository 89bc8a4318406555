"""What the target will never take: what it returns, what it closes over, and what it has no words
for. No I/O.

Rules
* A message that came back is parked at the target, by way of the window.
* One that the target closes over is looked for by sending one at a time, and parked at the source:
  the target would close over it in its parking queue too.
* A target that goes away without a word may do so over a message too. When it has done so twice
  with the same one in front, they go one at a time, and the one over which it then goes away
  `DOUBTS` times is parked: whatever the reason, the others get on.
* Those that were under way then are suspects until the target has them all: they go one by one,
  in order, whatever the link's state. Tags are those of one opening of the source; with that all
  suspicion ends, since they begin anew.
* What nobody could translate is parked at the source as well. One after the other; one that fails
  lets the next go first.
"""

from __future__ import annotations

from collections.abc import Mapping

from understudyd.bridge.ledger import Ledger, Parcel
from understudyd.bridge.outcomes import Outcome, of_closed, of_return
from understudyd.bridge.parking import Parking
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.bodies import content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.reader import Returned
from understudyd.bridge.words import ParkAtSource

__all__ = ["DOUBTS", "Rejects"]

DEDUPLICATED = b"x-deduplication-header"
"""A header for a plugin of RabbitMQ whose exchanges route no duplicates. These come back like what
has no queue, and only the exchange could tell; parked, neither is lost."""
DOUBTS = 5  # times; a broker that comes up and dies again does not often do so over one message


class Rejects:
    """Of one link, whose ledger it changes."""

    def __init__(self, ledger: Ledger, parking: Parking) -> None:
        self._ledger = ledger
        self._parking = parking
        self._last_suspect = 0  # up to this tag they go one by one
        self._tried = 0  # the tag that was parked at the source last, or not
        self._doubted = (
            0,
            False,
        )  # the tag in front when the target went, and whether it was alone
        self._doubts = 0  # times in a row

    @property
    def is_careful(self) -> bool:
        """Whether messages are to be sent one by one."""
        return self._last_suspect > 0

    def judge(self, closed: Closed) -> ParkAtSource | None:
        """Find out whether a message closed the channel, and which."""
        under_way = self._ledger.under_way()
        outcome = of_closed(closed, is_alone=len(under_way) == 1 and self.is_careful)
        if outcome is Outcome.RETRY:
            self._suspect(under_way)
        elif outcome is Outcome.REJECT:
            return self._reject(under_way[0], str(closed))
        return None

    def doubt(self, reason: str) -> ParkAtSource | None:
        """The target went away and did not say why."""
        under_way = self._ledger.under_way()
        if not under_way:
            return None
        is_alone = len(under_way) == 1 and self.is_careful
        doubted = (under_way[0], is_alone)
        self._doubts = self._doubts + 1 if doubted == self._doubted else 1
        self._doubted = doubted
        if is_alone and self._doubts >= DOUBTS:
            why = f"{reason}, {self._doubts} times while this message alone was under way"
            return self._reject(under_way[0], why)
        if self._doubts > 1:
            self._suspect(under_way)
        return None

    def _suspect(self, tags: list[int]) -> None:
        self._last_suspect = max([self._last_suspect, *tags])

    def _reject(self, tag: int, reason: str) -> ParkAtSource | None:
        parcel = self._parking.park_at_source(self._ledger.parcel(tag), reason)
        return self.set_aside({tag: parcel})

    def set_aside(self, parcels: Mapping[int, Parcel]) -> ParkAtSource | None:
        """These are for the parking queue of the source."""
        is_busy = self._ledger.has_aside
        for tag, parcel in parcels.items():
            self._ledger.set_aside(tag, parcel)
        return None if is_busy else self.aside()

    def acquit(self) -> None:
        """See whether the suspects are settled."""
        if self.is_careful and not self._ledger.is_owed_upto(self._last_suspect):
            self._last_suspect = 0

    def forget(self) -> None:
        """The source was lost or closed."""
        self._last_suspect = self._tried = self._doubts = 0
        self._doubted = (0, False)

    def aside(self) -> ParkAtSource | None:
        """The next one to park at the source."""
        if not self._ledger.has_aside:
            return None
        self._tried = self._ledger.next_aside(self._tried)
        return ParkAtSource(self._tried, self._ledger.parcel(self._tried))

    def park(self, tag: int) -> None:
        """One that came back goes to the target's parking queue."""
        parcel = self._parking.park(self._ledger.parcel(tag), self._ledger.why(tag))
        self._ledger.replace(tag, parcel)

    def is_accounted_for(self, message: Returned) -> bool:
        """Whether a message that came back is one of ours, whose confirm follows; one from the
        parking queue is not: that is gone."""
        publish = encode_publish(message.exchange, message.routing_key)
        header = content_header(message.properties, message.size)
        tag = self._ledger.came_back(publish, header, message.frames, _why(message))
        if tag is None:
            return self._ledger.is_owed_to_nobody
        is_parked = self._parking.holds(self._ledger.parcel(tag))
        return of_return(is_parked=is_parked) is Outcome.REJECT


def _why(message: Returned) -> str:
    what = f"no queue is bound to exchange://{message.exchange}/{message.routing_key}"
    if not message.exchange:
        what = f"no queue {message.routing_key}"
    why = f"{message.code} {message.text}: {what} at the target"
    return f"{why}, or it is a duplicate there" if DEDUPLICATED in message.properties else why
