"""Times to live: made absolute when a message is read, relative again where it is written.

Rules
* A deadline is milliseconds since 1970 by the bridge's clock, which therefore should agree with
  those of the brokers that speak of absolute times.
* A relative time to live begins anew in each broker. So that what was spent in one queue is not
  given again, a bridge writes ``x-understudy-deadline: DEADLINE EXPIRATION``, and believes it on
  the next hop while the message still has that very expiration; a copy that an application
  publishes with another one is not cut short.
* Without that header, the time since the message's timestamp counts as spent, where that lies
  within its time to live; up to a second is given back, as timestamps are cut to seconds.
* What its target cannot say (RabbitMQ: more than ten years) is left out there, and kept in the
  header, with ``-`` for the expiration.
"""

from __future__ import annotations

import re

from understudyd.bridge.content import Expired

__all__ = ["deadline_header", "deadline_of", "expiration_of", "remaining"]

_DEADLINE = re.compile(r"([0-9]{1,19}) ([0-9]{1,18}|-)")
_EXPIRATION = re.compile(r"\+?([0-9]{1,18})")  # as RabbitMQ takes it
_SECOND = 1000
_LAST = (1 << 63) - 1  # a broker that keeps a deadline has 64 bits for it


def expiration_of(text: str) -> int | None:
    """The milliseconds of an expiration; None for what is no such number."""
    found = _EXPIRATION.fullmatch(text)
    return int(found[1]) if found else None


def deadline_of(
    expiration: str | None, header: str | None, timestamp: int | None, now: int
) -> int | None:
    """When a message with a relative time to live expires; None for never.

    ``header`` is its ``x-understudy-deadline``; ``timestamp`` and ``now`` are in milliseconds.
    """
    found = _DEADLINE.fullmatch(header) if header else None
    if found and found[2] == (expiration or "-") and int(found[1]) <= _LAST:
        return int(found[1])
    left = expiration_of(expiration) if expiration is not None else None
    if left is None:
        return None
    if timestamp is not None and timestamp <= now < timestamp + left:
        return min(timestamp + _SECOND, now) + left
    return now + left


def remaining(deadline: int, now: int) -> int:
    """Milliseconds until the deadline; raises Expired when it has passed."""
    left = deadline - now
    if left < 0:
        raise Expired(f"expired {-left} ms ago")
    return left


def deadline_header(deadline: int, expiration: int | None) -> str:
    """The ``x-understudy-deadline`` of a message with this expiration beside it."""
    return f"{deadline} {'-' if expiration is None else expiration}"
