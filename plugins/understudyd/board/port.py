"""The board: presence, history and requests of a group, in the store that also has its lock.

Rules
* Nothing safe rests on it. It may lose, repeat or delay what it was told; who is master is decided
  by the lock alone. A node that can't reach the board goes on without it.
* Calls block, at most for about the time-out that the board was made with, come from one thread at
  a time, and do not retry. They raise `Unavailable` and nothing else.
* What was written by another version, or half written, is left out and not an error.
* Ages (``seen_s``) are counted by the reader's own clock from when it saw a change; only what a
  reader sees for the first time has the age that the store tells.

A request stands until it is answered or replaced by another of its subject: *pause* and *resume*
are one subject, and stand for ever (the last one is the state of the group); *switchover* and
*failover* are one, and stand `REQUEST_LIFE` seconds at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from understudyd.status import HistoryEntry, Member

__all__ = ["HISTORY_LIMIT", "REQUEST_LIFE", "SUBJECTS", "Answer", "Board", "Request", "Shown"]

HISTORY_LIMIT = 100  # entries that are kept
REQUEST_LIFE = 60.0  # s; nobody is surprised tomorrow by a switchover that was asked for today
SUBJECTS = {"switchover": "move", "failover": "move", "pause": "pause", "resume": "pause"}


@dataclass(frozen=True)
class Answer:
    """What became of a request. Codes as in HTTP: 202, 409, 412."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Request:
    """``command``: a key of SUBJECTS."""

    id: str  # unique
    command: str
    to: str | None = None  # the node to be master, of a switchover or failover
    by: str = ""  # who asked, for the history
    answer: Answer | None = None


@dataclass(frozen=True)
class Shown:
    """What a board shows at one moment."""

    members: tuple[Member, ...] = ()  # by name; ``seen_s``: seconds since they last published
    requests: tuple[Request, ...] = ()  # what stands, answered or not; pause or resume first
    history: tuple[HistoryEntry, ...] = ()  # the newest `HISTORY_LIMIT`, oldest first


class Board(Protocol):
    def read(self) -> Shown:
        """All of it; it is looked at every second, so in one round trip where there are any."""

    def publish(self, member: Member) -> None:
        """Show this node to the others. ``seen_s`` is not stored."""

    def append(self, entry: HistoryEntry) -> None:
        """Add to the history."""

    def ask(self, request: Request) -> None:
        """Put up a request in place of the last one of its subject."""

    def answer(self, request: Request, answer: Answer) -> None:
        """Show whoever asked what became of it; nothing if another has replaced it."""

    def close(self) -> None:
        """Let go of connections. The board may be used again."""
