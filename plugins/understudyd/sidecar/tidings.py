"""What the log says of things that work or don't. Pure: texts out, for whoever writes them.

Rules
* What can't be reached twice in a row is told once, with the reason, and once more when it answers
  again. Once alone is no news: a record may be read while it is being written.
* A broker that is not healthy is told of with each new reason, and of no more than `REASONS` of
  them until it has been healthy: while it starts it is asked ten times a second.
* Each reign of another node is told of once.
"""

from __future__ import annotations

from understudyd.health.port import Health

__all__ = ["Illness", "Outage", "Reigns"]

REASONS = 5
MISSES = 2


class Outage:
    """Of the lock or the board."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._misses = 0  # in a row

    def hear(self, trouble: str) -> str:
        """``trouble``: empty when it answered. Returns what is to be told, or nothing."""
        before, self._misses = self._misses, self._misses + 1 if trouble else 0
        if self._misses == MISSES:
            return f"{self._name} can't be reached: {trouble}"
        return f"{self._name} answers again" if before >= MISSES and not trouble else ""


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
