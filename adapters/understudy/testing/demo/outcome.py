"""What a run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.testing.demo.plan import Contestant

__all__ = ["Event", "Outcome"]


@dataclass(frozen=True)
class Event:
    """Something done to a broker, ``at`` seconds after publishing began."""

    at: float
    what: str
    broker: str | None = None

    def __str__(self) -> str:
        return f"{self.at:.1f} s {self.what} {self.broker or ''}".rstrip()


@dataclass(frozen=True)
class Outcome:
    """Every number in it was measured."""

    contestant: Contestant
    events: Sequence[Event]
    sent: int  # delay() returned
    executed: int  # of those
    lost: int  # of those: not executed and in no queue
    stranded: int  # of those: not executed, in a queue whose worker does not take it
    duplicates: int  # executions of a task after its first
    errors: Mapping[str, int]  # raised by delay(), by class
    first_error: str | None
    longest_call: float  # s in delay()
    longest_pause: float  # s of publishing in which no task was executed
    publishing: float  # s
    hung_publishers: int  # killed, because their last call did not return
    stuck_workers: Sequence[str]  # killed, because they did not obey SIGTERM

    @property
    def is_ours(self) -> bool:
        """True for the run that must be clean."""
        return self.contestant.is_ours

    @property
    def is_clean(self) -> bool:
        """True when something was sent, nothing was lost, raised or left hanging."""
        return self.sent > 0 and not (self.lost or self.errors or self.hung_publishers)

    def as_json(self) -> dict[str, Any]:
        """For machines; without the credentials in the URLs."""
        return {
            "name": self.contestant.name,
            "settings": list(self.contestant.shown),
            "events": [vars(event) for event in self.events],
            "sent": self.sent,
            "executed": self.executed,
            "lost": self.lost,
            "stranded": self.stranded,
            "duplicates": self.duplicates,
            "errors": dict(self.errors),
            "first_error": self.first_error,
            "longest_call_s": round(self.longest_call, 3),
            "longest_pause_s": round(self.longest_pause, 3),
            "publishing_s": round(self.publishing, 2),
            "hung_publishers": self.hung_publishers,
            "stuck_workers": list(self.stuck_workers),
        }
