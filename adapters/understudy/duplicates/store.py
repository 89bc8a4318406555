"""The port behind a duplicate window: where the ids are kept, and the rules for who works on one.

Rules
* An id is unknown, claimed or done. A claim belongs to one attempt, its owner, and ends by `done`,
  by `release`, or by itself when its lease is over, because its owner may have crashed.
* An id is done only by a call that says so. Claiming one proves nothing about its message.
* Bounded: at most ``limit`` ids are kept as done, none for longer than ``age`` seconds; the ones
  that were done first are forgotten first, and count as new from then on.
* Every method is atomic among all users of the store, and may be repeated with the same arguments.
* A store never decides what an error means: it raises, and the window takes the message for new.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from understudy.errors import ConfigurationError

__all__ = ["DEFAULT_AGE", "DEFAULT_LIMIT", "Store", "Verdict", "check_bounds"]

DEFAULT_LIMIT = 100_000  # UUIDs take 21 MB in memory, 12 in SQLite, 15 in Redis
DEFAULT_AGE = 86_400.0  # s; a copy that waited in a broker that was down for a day is still known


class Verdict(Enum):
    """What a store says of an id that somebody wants to work on."""

    CLAIMED = "claimed"  # it is yours
    BUSY = "busy"  # somebody else works on it
    DONE = "done"  # it was processed


class Store(Protocol):
    """Remembers ids; any method may be called from any thread, and may raise any Exception."""

    def claim(self, key: str, owner: str, lease: float, *, take_over: bool = False) -> Verdict:
        """Claim an id for ``lease`` seconds unless it is done or claimed by another owner.

        ``take_over`` claims it whatever other claim there is, but never an id that is done.
        """

    def done(self, key: str, owner: str) -> None:
        """The message was processed: remember it, and end every claim, the owner's or not."""

    def release(self, key: str, owner: str) -> None:
        """End the owner's claim; nothing happens to anybody else's."""

    def is_done(self, key: str) -> bool:
        """Whether the id is remembered as processed."""

    def close(self) -> None:
        """Let go of files and connections; what is remembered stays."""


def check_bounds(limit: int | None, age: float | None) -> None:
    """Refuse bounds that are none."""
    if limit is None and age is None:
        raise ConfigurationError(
            "a duplicate window needs a bound: give limit (ids), age (s), or both"
        )
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit must be at least 1 id, or None; {limit!r} is not")
    if age is not None and not age > 0:
        raise ConfigurationError(f"age must be above 0 seconds, or None; {age!r} is not")
