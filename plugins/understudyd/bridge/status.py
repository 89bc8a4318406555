"""What is told of links and bridges: state with its reason, counts, rate. No I/O, no clock.

Rules
* Whoever runs but does not move is not told to run: ``stalled``, while something is in flight or
  waits at the source, and nothing was settled for `STALLED` seconds.
* A look costs the same whatever a link has in flight.
* What a log is told is bounded: `BURST` changes at once, then one every `PACE` seconds; the last
  state is told in any case. Of messages that were parked it is told at once, then every `PACE`
  seconds at most.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from understudyd.bridge.link import Link
from understudyd.bridge.spool.words import FAILED, FULL, NoSpool, Spool
from understudyd.bridge.words import State

__all__ = ["CONNECTING", "TROUBLE", "Glance", "LinkStatus", "ParkTeller", "Teller", "summary"]

STALL = 5.0  # s; a confirm takes some milliseconds, with a busy disk a second
RATE_SPAN = 5.0  # s that a rate is the mean of
BURST = 10  # lines
PACE = 10.0  # s
BRIEF = 2.0  # s; connecting takes some tenths, and is not told before
LONGEST = 300  # characters of a reason; brokers repeat what they were sent

CONNECTING = "connecting"  # as the reasons begin that nothing has gone wrong for yet
STALLED = "stalled"
TROUBLE = (
    State.GIVEN_UP.value,
    STALLED,
    FAILED,
    FULL,
    "blocked",
    State.RETRYING.value,
    State.WAITING_ROOM.value,
    State.HOLDING.value,
    State.WAITING_TARGET.value,
    State.WAITING_SOURCE.value,
)
"""States that nobody has asked for, the worst first."""
_OTHERS = (
    State.MOVING,
    State.DRAINING,
    State.PAUSING,
    State.PAUSED,
    State.IDLE,
    State.RUNNING,
    State.STOPPED,
)
_WORST = (*TROUBLE, *(state.value for state in _OTHERS))


@dataclass(frozen=True)
class Glance:
    """One link at one moment."""

    destination: str
    state: str
    reason: str
    rate: float  # messages settled in a second
    in_flight: int
    oldest_s: float | None  # how long the oldest of these is in flight
    forwarded: int
    parked: int
    retried: int
    lag: int | None  # messages that wait at the source; None where that is not known
    last_error: str
    dropped: int = 0  # past their hop limit, excluded, or not wanted by the transformer
    expired: int = 0
    spooled: int | None = None  # messages on disk here; None: there is no spool
    spooled_bytes: int | None = None
    requests: int = 0  # that went on with an address of ours for their replies
    requests_unserved: int = 0  # whose reply cannot come, since no address could be made
    requesters: int = 0  # that may get a reply still
    replies: int = 0  # brought to them
    replies_lost: int = 0  # whose requester was gone, or that were parked
    replies_reason: str = ""  # what keeps replies from coming
    duplicates: int = 0  # that came again and were not sent again


class LinkStatus:
    """Looks at a link from time to time."""

    def __init__(self, link: Link, destination: str, spool: Spool | None = None) -> None:
        self.destination = destination
        self._spool = spool or NoSpool()
        self._link = link
        self._counts: deque[tuple[float, int]] = deque()  # of a few seconds
        self._moved_at = 0.0
        self._moved = -1  # messages, when it moved last
        self._lag: int | None = None
        self._lagging_since = 0.0

    def waits(self, lag: int | None, now: float) -> None:
        """So many messages wait at the source; None: it does not tell."""
        if lag and not self._lag:
            self._lagging_since = now
        self._lag = lag

    def look(self, now: float) -> Glance:
        link = self._link
        done = link.forwarded + link.parked + link.dropped + link.expired
        if done != self._moved or link.state is not State.RUNNING:
            self._moved, self._moved_at = done, now
        taken = link.ledger.oldest()
        state, reason = self._spool.shown(*self._state(taken, now))
        return Glance(
            self.destination,
            state,
            reason[:LONGEST],
            self._rate(link.forwarded, now),
            len(link.ledger),
            None if taken is None else round(max(0.0, now - taken), 3),
            link.forwarded,
            link.parked + self._spool.moved,
            link.retried,
            self._lag,
            link.reasons.last_error[:LONGEST],
            link.dropped,
            link.expired,
            self._spool.spooled,
            self._spool.spooled_bytes,
        )

    def _state(self, taken: float | None, now: float) -> tuple[str, str]:
        link = self._link
        if link.shown != State.RUNNING.value or link.reason:
            return link.shown, link.reason
        still = now - self._moved_at
        is_owed = taken is not None and not link.is_paced
        if taken is not None and is_owed and min(still, now - taken) >= STALL:
            return STALLED, f"target: nothing was confirmed for {STALL:g} s and more"
        is_asked = taken is None and link.wants_reading
        if is_asked and self._lag and min(still, now - self._lagging_since) >= STALL:
            return STALLED, f"source: messages wait there, none came for {STALL:g} s and more"
        return link.shown, ""

    def _rate(self, forwarded: int, now: float) -> float:
        counts = self._counts
        counts.append((now, forwarded))
        while len(counts) > 2 and counts[1][0] <= now - RATE_SPAN:
            counts.popleft()
        since, before = counts[0]
        return round((forwarded - before) / (now - since), 1) if now > since else 0.0


class Teller:
    """Decides what a log is told about one link."""

    def __init__(self) -> None:
        self._told = ("", "")
        self._seen = ("", "")
        self._room = float(BURST)
        self._at = 0.0
        self._missed = 0
        self._since = 0.0  # when what is seen began

    def tell(self, state: str, reason: str, now: float) -> tuple[int, str] | None:
        """Level and text of a line; None: nothing is new, or too much is."""
        seen, self._seen = self._seen, (state, reason)
        if seen != self._seen:
            self._since = now
        if reason.startswith(CONNECTING) and now - self._since < BRIEF:
            return None
        if self._seen == self._told:
            self._missed += seen != self._seen  # there and back again
            return None
        self._room = min(BURST, self._room + (now - self._at) / PACE)
        self._at = now
        if self._room < 1:
            self._missed += seen != self._seen
            return None
        self._room -= 1
        changes = "one change" if self._missed == 1 else f"{self._missed} changes"
        missed = f" (and {changes} before that)" if self._missed else ""
        self._told, self._missed = self._seen, 0
        why = f": {reason}" if reason else ""
        is_ill = state in TROUBLE and not reason.startswith(CONNECTING)
        level = logging.WARNING if is_ill else logging.INFO
        return level, f"is {state}{why}{missed}"


class ParkTeller:
    """Decides what a log is told about the messages that one link has parked."""

    def __init__(self) -> None:
        self._told = 0
        self._next = float("-inf")

    def tell(self, parked: int, where: str, reason: str, now: float) -> str | None:
        """``parked``: all so far; the rest is about the last one. None: nothing is new, or the line
        before is not old enough."""
        new = parked - self._told
        if not new or now < self._next:
            return None
        self._told, self._next = parked, now + PACE
        what = "a message" if new == 1 else f"{new} messages, the last"
        return f"has parked {what} in {where}: {reason[:LONGEST]}"


def summary(name: str, source: str, target: str, glances: Sequence[Glance]) -> dict[str, Any]:
    """A bridge in the words of ``/status``: as bad as the worst of its links."""
    worst = min(glances, key=lambda glance: _WORST.index(glance.state))
    reason = worst.reason
    if reason and any(glance.state != worst.state for glance in glances):
        reason = f"{worst.destination}: {reason}"
    ages = [glance.oldest_s for glance in glances if glance.oldest_s is not None]
    lags = [glance.lag for glance in glances if glance.lag is not None]
    errors = [glance.last_error for glance in glances if glance.last_error]
    return {
        "name": name,
        "state": worst.state,
        "reason": reason,
        "source": source,
        "target": target,
        "rate": round(sum(glance.rate for glance in glances), 1),
        "in_flight": sum(glance.in_flight for glance in glances),
        "oldest_s": max(ages, default=None),
        "forwarded": sum(glance.forwarded for glance in glances),
        "parked": sum(glance.parked for glance in glances),
        "retried": sum(glance.retried for glance in glances),
        "dropped": sum(glance.dropped for glance in glances),
        "expired": sum(glance.expired for glance in glances),
        "duplicates": sum(glance.duplicates for glance in glances),
        "requests": sum(glance.requests for glance in glances),
        "replies": sum(glance.replies for glance in glances),
        "replies_lost": sum(glance.replies_lost for glance in glances),
        "spooled": _sum(glance.spooled for glance in glances),
        "spooled_bytes": _sum(glance.spooled_bytes for glance in glances),
        "lag": sum(lags) if len(lags) == len(glances) else None,
        "last_error": worst.last_error or next(iter(errors), ""),
        "links": [asdict(glance) for glance in glances],
    }


def _sum(counts: Iterable[int | None]) -> int | None:
    """Of those that there are."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
