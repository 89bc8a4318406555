"""What the node counts for `/metrics`. Pure; the names are those of `understudyd.api.metrics`."""

from __future__ import annotations

from understudyd.guard.words import Dead, GuardLost
from understudyd.lock.words import Failed, Seen, Swap
from understudyd.sidecar.words import Kill, Note
from understudyd.status import Role

__all__ = ["Counts"]

COUNTERS = (
    "renewals_total",
    "renewals_failed_total",
    "renewal_seconds_total",
    "promotions_total",
    "demotions_total",
    "fences_total",
    "guard_restarts_total",
    "board_failures_total",
)


class Counts:
    def __init__(self) -> None:
        self.values: dict[str, float] = dict.fromkeys(COUNTERS, 0.0)
        self._swap: tuple[int, float] | None = None  # the attempt under way, and since when

    def add(self, name: str, amount: float = 1.0) -> None:
        self.values[name] += amount

    def set(self, name: str, value: float) -> None:
        self.values[name] = value

    def hear(self, event: object, now: float) -> None:
        """An event, as the node gets it."""
        swap = self._swap
        match event:
            case Seen(attempt) if swap and swap[0] == attempt:
                self.add("renewals_total")
                self.add("renewal_seconds_total", now - swap[1])
                self._swap = None
            case Failed():
                self.add("renewals_failed_total")
            case GuardLost():
                self.add("guard_restarts_total")
            case Dead(_, took_s):
                self.values["kill_seconds"] = took_s

    def see(self, action: object, now: float) -> None:
        """An action, as the node gives it."""
        match action:
            case Swap(attempt):
                self._swap = (attempt, now)
            case Kill():
                self.add("fences_total")
            case Note(_, Role.MASTER, _, took_s):
                self.add("promotions_total")
                self.values["takeover_seconds"] = took_s
            case Note():
                self.add("demotions_total")
