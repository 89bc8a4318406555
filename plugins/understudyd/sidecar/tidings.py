"""What the log says of things that work or don't. Pure: texts out, for whoever writes them.

Rules
* What can't be reached twice in a row is told once, with the reason, and once more when it has
  answered `ANSWERS` times in a row. Once alone is no news: a record may be read while it is being
  written, and a store that is too slow answers now and then.
* A broker that is not healthy is told of with each new reason, and of no more than `REASONS` of
  them until it has been healthy: while it starts it is asked ten times a second.
* Each reign of another node is told of once; so is a lock that is ours, but too late to be used.
"""

from __future__ import annotations

from understudyd.health.port import Health

__all__ = ["Illness", "LateClaim", "Outage", "Reigns"]

REASONS = 5
MISSES = 2
ANSWERS = 5


class Outage:
    """Of the lock or the board."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_told = False
        self._row = 0  # of misses; of answers, once it is told

    def hear(self, trouble: str) -> str:
        """``trouble``: empty when it answered. Returns what is to be told, or nothing."""
        is_other = bool(trouble) is not self._is_told
        self._row = self._row + 1 if is_other else 0
        if self._row < (ANSWERS if self._is_told else MISSES):
            return ""
        self._is_told, self._row = not self._is_told, 0
        how = f"can't be reached: {trouble}" if trouble else "answers again"
        return f"{self._name} {how}"


class Illness:
    """Of the broker that is running now."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def hear(self, health: Health) -> str:
        """The answer of a check. Returns what is to be told, or nothing."""
        if health.ok:
            self._told.clear()
        elif health.detail not in self._told and len(self._told) < REASONS:
            self._told.add(health.detail)
            return f"health check: {health.detail}"
        return ""


class Reigns:
    """Of the other nodes."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._told = 0  # the token of the reign that was told of last

    def hear(self, holder: str | None, token: int | None) -> str:
        """Who has the lock now. Returns what is to be told, or nothing."""
        if holder is None or token is None or holder == self._own or token == self._told:
            return ""
        self._told = token
        return f"{holder} has the lock, token {token}"


class LateClaim:
    """Nothing else shows that the store is too slow: the lock is ours, and nobody is master."""

    def __init__(self) -> None:
        self._is_told = False

    def hear(self, is_late: bool, budget: float) -> str:
        """``budget``: seconds that the timings allow. Returns what is to be told, or nothing."""
        is_news, self._is_told = is_late and not self._is_told, is_late
        if not is_news:
            return ""
        return (
            f"the lock is ours, but it takes longer to write than the {budget:.3g} s that its"
            " timings allow: not to be master until it is faster, or has a longer lease"
        )
