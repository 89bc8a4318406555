"""When the broker is asked how it is, and what its answers come to. Pure."""

from __future__ import annotations

import math

from understudyd.config import model
from understudyd.health.port import Health
from understudyd.sidecar.words import Check, Checked

__all__ = ["Checks"]

EAGER = 0.1  # s between two checks of a broker that is starting
GRACE = 1.0  # s beyond its own limit until a check counts as unanswered


class Checks:
    """One check at a time; an answer to an earlier one is not listened to."""

    def __init__(self) -> None:
        self.is_healthy = False
        self.detail = ""  # what was answered last
        self.due = math.inf  # when the next check is due, or the one under way overdue
        self._misses = 0  # in a row
        self._number = 0
        self._is_asking = False

    def begin(self, now: float) -> None:
        """A broker was started."""
        self.end()
        self.detail = "no check was answered"
        self.due = now

    def end(self) -> None:
        """There is no broker any more."""
        self.is_healthy = self._is_asking = False
        self._misses = 0
        self.due = math.inf

    def turn(self, now: float, settings: model.Health) -> Check | Checked | None:
        """A check to begin now, or what stands for the answer of one that does not come back."""
        if now < self.due:
            return None
        if self._is_asking:
            return Checked(self._number, Health(False, "the health check does not come back"))
        self._number += 1
        self._is_asking = True
        self.due = now + settings.timeout + GRACE
        return Check(self._number)

    def answer(self, event: Checked, now: float, settings: model.Health) -> bool:
        """Take in an answer; return whether it is one that counts.

        A broker that was healthy stays so until ``settings.failures`` checks in a row have failed.
        """
        if event.number != self._number or not self._is_asking:
            return False
        health = event.health
        self._is_asking = False
        self.detail = health.detail
        self._misses = 0 if health.ok else self._misses + 1
        self.is_healthy = health.ok or (self.is_healthy and self._misses < settings.failures)
        pause = settings.interval if self.is_healthy else min(EAGER, settings.interval)
        self.due = now + pause
        return True
