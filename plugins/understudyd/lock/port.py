"""The lock port: what the keeper needs of a store, and what a store answers.

Rules
* Three answers, and only one of them is a loss. *Held by another*: the store shows a record that
  is somebody else's and newer. *Gone*: no record, which is unknown and not free. Everything else,
  time-outs and errors of any class, is *unavailable* (raised as `Unavailable`) and proves nothing.
* A swap is atomic: it writes only if the store still shows exactly what was expected, in the same
  incarnation. A swap that raised may have happened, or may still happen, once; reading tells.
* Calls block, at most for about the time-out of one attempt that the backend was made with, and
  come from one thread at a time. None of them retries: the keeper owns the deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from understudy.errors import UnderstudyError
from understudyd.lock.record import LockRecord, Version

__all__ = ["Hasty", "Inheritable", "LockBackend", "Observation", "Unavailable", "Waitable"]


class Unavailable(UnderstudyError):
    """The lock's store could not be asked; nothing is known."""


@dataclass(frozen=True)
class Observation:
    """What the store showed at one moment."""

    record: LockRecord | None
    incarnation: str  # this life of the store
    #: no living process holds the lock, by a proof that needs no waiting (flock on a local
    #: filesystem, whose descriptor the broker itself has inherited)
    is_free: bool = False
    #: why the lock can't be held any more, by a proof of the store's own (the file was replaced)
    lost: str = ""

    @property
    def version(self) -> Version | None:
        return None if self.record is None else self.record.version

    @property
    def is_proven_free(self) -> bool:
        """Free without watching: proven so, or released in this life of the store."""
        record = self.record
        released = record is not None and record.released
        return self.is_free or (
            released and record is not None and record.incarnation == self.incarnation
        )


@runtime_checkable
class Waitable(Protocol):
    """What a backend may do besides: tell when looking is worth while. Safety needs none of it."""

    def await_change(self) -> None:
        """Block until the lock may be free; from another thread than the rest. Raises Unavailable.

        It may return without a reason, and may block for ever.
        """


@runtime_checkable
class Hasty(Protocol):
    """A backend that waits before it believes what it sees for the first time."""

    def hurry(self) -> None:
        """Believe at once from now on. For who only lets a lock of its own go, whose broker is
        dead: a tombstone that was written in the wrong place is true all the same."""


class LockBackend(Protocol):
    def read(self) -> Observation:
        """What is there now. Raises Unavailable, or RecordError for what is no lock record."""

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        """Write ``record`` if the store still shows ``expected``; return what it shows then.

        It was written if the answer's record equals ``record``. Raises Unavailable: perhaps
        written.
        """

    def close(self) -> None:
        """Let go of connections and of our own hold; a broker that inherited the lock keeps it.

        The backend may be used again.
        """


@runtime_checkable
class Inheritable(Protocol):
    """A lock held by an open descriptor, for whoever has a copy of it."""

    @property
    def descriptor(self) -> int | None:
        """To hand on to the guard; None while the lock is not ours."""

    def adopt(self, descriptor: int) -> None:
        """Be the holder by this copy, which is ours to close from now on."""
