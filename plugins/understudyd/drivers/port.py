"""The driver port: what the sidecar needs of a broker, and what a driver tells.

Rules
* Nothing here blocks: a call begins something, an event tells how it ended. Events are of the reign
  whose token they carry; of an earlier one they mean nothing any more.
* After ``promote`` there is something to fence, whatever happens: only ``Dead`` with nothing left
  ends that. Until then the lock is not let go.
* The lease's deadline is enforced below the sidecar, which may be frozen: a driver gets it with
  ``promote`` and ``extend``, and has the broker dead soon after it, whether it is told to or not.
* A broker that ends by itself is told by ``Exited``, and by ``Dead`` once all that it left behind
  is dead too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from understudyd.config.model import BrokerConfig
from understudyd.guard.words import Event

__all__ = ["Driver", "Event", "HandsOn", "Reign"]


@dataclass(frozen=True)
class Reign:
    """One time of being master. The broker gets both as UNDERSTUDY_LOCK_TOKEN and _EPOCH."""

    token: int  # the fencing token
    epoch: str  # the life of the lock's store that gave the token


class Driver(Protocol):
    def start(self) -> None:
        """Make ready what has to be there before a broker is. Raises UnderstudyError."""

    def fileno(self) -> int:
        """Readable while there are events."""

    def events(self) -> list[Event]:
        """What happened since the last call; never waits."""

    def promote(self, reign: Reign, deadline: float, descriptors: tuple[int, ...] = ()) -> None:
        """Begin to start the broker, which may live until the deadline (seconds, CLOCK_BOOTTIME).

        ``descriptors`` are the lock's: whatever is started inherits them. Also for a restart in
        place, after a Dead that nobody ordered. Raises OSError or UnderstudyError when nothing
        was started.
        """

    def beat(self) -> None:
        """Called now and then: look after own helpers."""

    def configure(self, config: BrokerConfig) -> None:
        """Other settings, from the next ``promote`` on."""

    def extend(self, deadline: float) -> None:
        """The lease lasts longer. Never shorter than said before."""

    def demote(self, until: float) -> None:
        """Stop the broker cleanly until that moment; what runs then is killed. Told by Dead."""

    def fence(self, cause: str) -> None:
        """Kill the broker, at once. Told by Dead, also when there was nothing to kill."""

    def over(self) -> None:
        """The lock was let go: nobody has to release it for this reign any more."""

    def close(self) -> None:
        """Fence what lives, end own helpers. Blocks no longer than a kill takes."""


@runtime_checkable
class HandsOn(Protocol):
    """A driver whose broker runs on while the sidecar is replaced in its own process."""

    @property
    def is_ready(self) -> bool:
        """Whether `hand_on` is possible now."""

    def hand_on(self) -> str:
        """Prepare for an exec; returns what to give to `adopt` after it. Raises UnderstudyError."""

    def adopt(self, state: str, token: int) -> None:
        """In place of `start`: the broker of this reign is there."""
