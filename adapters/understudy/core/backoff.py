"""How long to wait between two passes over the endpoints.

A *pass* tries every endpoint without a pause; a delay stands only between passes, never between
endpoints. With initial i, multiplier m and maximum M (activemq.md 1.4, F09 to F11):

=========================  ====================  ==============================================
situation                  before the 1st pass   after the k-th failed pass (k = 1, 2, ...)
=========================  ====================  ==============================================
very first connection      0                     min(M, i * m^(k-1))
reconnection               min(M, i)             min(M, i * m^k)
i = 0, both                0                     min(M, 10 * m^(k-1))
exponential off            as above              min(M, i), or min(M, 10) where i = 0
=========================  ====================  ==============================================

With the defaults: 0 | 10 20 40 ... 20480 30000 30000 and 10 | 20 40 ... 20480 30000 30000.

Not copied from ActiveMQ (activemq.md 1.4 and 9, rows 5, 6 and 10): the hot loop of i = 0, growth
cut to whole milliseconds (1.05 never grew), the reset at exactly 10 ms, a first wait above the
maximum, and a shared running delay that other timers inflate. There is no running delay at all:
the caller counts the failed passes since the last success, and a success is ``failures = 0``.

Every wait but the one that is 0 on purpose lasts at least `STEP_MS`, after jitter too, so no
setting can make a hot loop. With a usable backup the caller skips the wait before the first pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.errors import ConfigurationError

if TYPE_CHECKING:
    from random import Random

    from understudy.core.options import Options

__all__ = ["RESTART_MS", "STEP_MS", "Backoff"]

STEP_MS = 1.0  # the shortest wait (activemq.md 9, row 5)
RESTART_MS = 10.0  # from here delays grow where initial is 0: ActiveMQ's default initial delay
LONGEST_EXPONENT = 2**31  # 1.0 ** k needs a k that fits a float; any real growth is capped by then


@dataclass(frozen=True)
class Backoff:
    """The delay settings, as in the URI options of the same names; times in milliseconds.

    The defaults are ActiveMQ's, except for the jitter: clients of a dead broker come back at the
    same moment otherwise (style rule 16).
    """

    initial_ms: float = 10.0
    maximum_ms: float = 30000.0
    exponential: bool = True
    multiplier: float = 2.0
    jitter: float = 0.5  # fraction of each delay that is random, 0 = exact

    def __post_init__(self) -> None:
        for name in ("initial_ms", "maximum_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{name} must be 0 or more, not {value!r}")
        if not (math.isfinite(self.multiplier) and self.multiplier >= 1):
            raise ConfigurationError(f"multiplier must be 1 or more, not {self.multiplier!r}")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"jitter must be from 0 to 1, not {self.jitter!r}")

    @classmethod
    def of(cls, options: Options) -> Backoff:
        """The delay settings of a failover URI."""
        return cls(
            options.initial_reconnect_delay,
            options.max_reconnect_delay,
            options.use_exponential_back_off,
            options.back_off_multiplier,
            options.reconnect_delay_jitter,
        )

    def delay_ms(self, failures: int, *, first_connection: bool, rng: Random) -> float:
        """The wait in milliseconds before the next pass, after ``failures`` failed ones in a row.

        ``first_connection`` is true until the first success of all. ``rng`` is asked once, and not
        at all where the delay is 0 or exact. The result is never above `exact_ms`.
        """
        exact = self.exact_ms(failures, first_connection=first_connection)
        if not exact or not self.jitter:
            return exact
        spread = exact * self.jitter
        return max(STEP_MS, exact - spread + spread * rng.random())

    def exact_ms(self, failures: int, *, first_connection: bool) -> float:
        """The same without jitter: an upper bound, and never falling as ``failures`` grows."""
        if failures <= 0 and (first_connection or self.initial_ms == 0):
            return 0.0
        growths = failures
        if first_connection or self.initial_ms == 0:
            growths -= 1
        delay = float(self.initial_ms or RESTART_MS)
        if self.exponential:
            try:
                delay *= self.multiplier ** min(max(growths, 0), LONGEST_EXPONENT)
            except OverflowError:
                delay = math.inf
        return max(STEP_MS, min(delay, float(self.maximum_ms)))
