"""The timings of a lease, and the inequality that keeps two masters apart.

A holder may rely on its lease until its deadline ``D = t + T(1-e) - K - m``, where t is its own
clock's time *before sending* the last acknowledged renewal. A standby takes over only after it has
watched an unchanged record for ``T(1+e)``, counted on its own clock from first sight. First sight
is later than the server's commit, which is later than t; so the old broker, killed at D and dead K
later, is gone before the earliest takeover. Clock values of two machines are never compared, only
their rates matter.

For liveness a holder must be able to fail `ATTEMPTS` times and still renew:
``D - t >= r + ATTEMPTS * o``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from understudy.errors import ConfigurationError

__all__ = ["ATTEMPTS", "DRIFT", "PRESETS", "Timings"]

DRIFT = 1e-3  # e: how far a clock's rate may be off; quartz is a hundred times better
SHORTEST_KILL = 0.025  # s; a RabbitMQ with nothing in it takes half of it, undisturbed
LOOKS = 4  # of a standby in a renewal period
ATTEMPTS = 3  # renewals that may time out before the lease is in danger


@dataclass(frozen=True)
class Timings:
    """All in seconds. Raises ConfigurationError, with the rule, for timings that are not safe."""

    lease: float  # T: how long a record must stand unchanged before another may take over
    renew: float  # r: from one renewal to the next
    attempt: float  # o: after this an attempt to reach the lock counts as failed
    kill: float  # K: from the order to kill the broker until it is dead
    margin: float = 0.1  # m: for our own scheduling

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ConfigurationError(
                    f"timing {field.name} must be a number of seconds above 0, not {value!r}"
                )
        if self.kill < SHORTEST_KILL:
            raise ConfigurationError(
                f"these timings are not safe: kill={self.kill:g} is shorter than any broker takes "
                f"to die, which is reckoned with {SHORTEST_KILL:g} s at least"
            )
        needed = self.renew + ATTEMPTS * self.attempt
        if self.budget < needed:
            raise ConfigurationError(
                f"these timings are not safe: lease x {1 - DRIFT:g} - kill - margin must be at "
                f"least renew + {ATTEMPTS} x attempt, but {self.budget:.3g} s is less than "
                f"{needed:.3g} s (lease={self.lease:g}, renew={self.renew:g}, "
                f"attempt={self.attempt:g}, kill={self.kill:g}, margin={self.margin:g}); "
                "use a longer lease or shorter attempts"
            )

    @property
    def budget(self) -> float:
        """How long after sending a renewal its lease may be relied on: ``D - t``."""
        return self.lease * (1 - DRIFT) - self.kill - self.margin

    @property
    def fencing(self) -> float:
        """How long a fence command may take: K, and what renewals leave of the budget. It has to
        begin that much before the lease is over."""
        spare = self.budget - self.renew - ATTEMPTS * self.attempt
        return math.floor(1000 * (self.kill + spare)) / 1000

    def lease_for(self, fencing: float) -> float:
        """The shortest lease that leaves a fence command so many seconds."""
        needed = self.renew + ATTEMPTS * self.attempt + self.margin + fencing
        return math.ceil(10 * needed / (1 - DRIFT)) / 10

    @property
    def look(self) -> float:
        """From one look of a standby to the next."""
        return self.renew / LOOKS

    @property
    def lead(self) -> float:
        """How much before the next renewal a standby looks again that has just seen one. So its
        sight of renewals, late by `look` at most, comes a little earlier each time and not later.
        """
        return self.look / LOOKS

    @property
    def patience(self) -> float:
        """How long a record must stand unchanged before a standby takes over."""
        return self.lease * (1 + DRIFT)


PRESETS = {
    "fast": Timings(lease=3, renew=0.7, attempt=0.5, kill=0.4),
    "normal": Timings(lease=6, renew=1.5, attempt=1, kill=0.8),
    "safe": Timings(lease=15, renew=3, attempt=3, kill=2),
}
