"""The driver port: what the sidecar needs of a broker, and what a driver tells.

Rules
* Nothing here blocks: a call begins something, an event tells how it ended. Events are of the reign
  whose token they carry; of an earlier one they mean nothing any more.
* After ``promote`` there is something to fence, whatever happens: only ``Dead`` with nothing left
  ends a reign. Until then the lock is not let go.
* The lease's deadline is enforced below the sidecar, which may be frozen: a driver gets it with
  ``promote`` and ``extend``, and has the broker dead soon after it, whether it is told to or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["BrokerEvent", "Dead", "Driver", "Exited", "Reign", "Started"]


@dataclass(frozen=True)
class Reign:
    """One time of being master. The broker gets both as UNDERSTUDY_LOCK_TOKEN and _EPOCH."""

    token: int  # the fencing token
    epoch: str  # the life of the lock's store that gave the token


@dataclass(frozen=True)
class Started:
    """The broker's process runs, or its promote command is done. Health is another matter."""

    token: int
    pid: int | None = None


@dataclass(frozen=True)
class Exited:
    """The broker ended by itself, or could not be started; ``fence`` clears away the rest."""

    token: int
    cause: str


@dataclass(frozen=True)
class Dead:
    """The broker is dead with all that it started, and reaped.

    ``left`` names what could not be killed: while it is not empty nothing is proven, the lock stays
    ours, and the driver goes on trying and tells again.
    """

    token: int
    took_s: float  # from the order, or the deadline
    left: tuple[str, ...] = ()


BrokerEvent: TypeAlias = Started | Exited | Dead


class Driver(Protocol):
    def fileno(self) -> int:
        """Readable while there are events. May be another after each call of ``events``."""

    def events(self) -> list[BrokerEvent]:
        """What happened since the last call; never waits."""

    def promote(self, reign: Reign, deadline: float, descriptors: tuple[int, ...] = ()) -> None:
        """Begin to start the broker, which may live until the deadline (seconds, CLOCK_BOOTTIME).

        ``descriptors`` are the lock's: whatever is started inherits them. Told by Started, or by
        Exited when it could not be started. Also for a restart in place, after Dead.
        """

    def extend(self, deadline: float) -> None:
        """The lease lasts longer. Never shorter than said before."""

    def demote(self, until: float) -> None:
        """Stop the broker cleanly until that moment; what runs then is killed. Told by Dead."""

    def fence(self) -> None:
        """Kill the broker, at once. Told by Dead, also when there was nothing to kill."""

    def close(self) -> None:
        """Fence what lives, end own helpers. Blocks no longer than a kill takes."""
