"""The board on a thread of its own: shows this node, looks for the others and for requests.

Nothing safe rests on it, so it may be slow, stuck or gone. What could not be written to the history
is kept for later, as much of it as a history holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from understudy.core.redact import redact
from understudyd.board.port import HISTORY_LIMIT, Answer, Board, Request, Shown
from understudyd.sidecar.worker import Worker
from understudyd.status import HistoryEntry, Member

__all__ = ["PERIOD", "Billboard", "News"]

T = TypeVar("T")

PERIOD = 1.0  # s between two looks
FAREWELL = 0.5  # s


@dataclass(frozen=True)
class News(Shown):
    """With ``trouble`` the board could not be reached."""

    trouble: str = ""

    def is_as_expected(self, before: News) -> bool:
        """Whether nothing but time has passed, and nobody waits for an answer."""
        is_asked = any(request.answer is None for request in self.requests)
        return not is_asked and self._ageless == before._ageless

    @property
    def _ageless(self) -> object:
        members = [replace(member, seen_s=None) for member in self.members]
        return members, self.requests, self.history, self.trouble


class _Outbox(Generic[T]):
    """What one thread puts in and another sends. Full, it loses the oldest that waits."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque(maxlen=HISTORY_LIMIT)
        self._next: list[T] = []  # taken out, and to be sent again until that does not fail

    def put(self, what: T) -> None:
        self._waiting.append(what)

    def send(self, send: Callable[[T], None]) -> None:
        """All of it, in order; goes on next time with what `send` has failed for."""
        while self._next or self._waiting:
            if not self._next:
                self._next.append(self._waiting.popleft())
            send(self._next[0])
            self._next.clear()


class Billboard:
    def __init__(self, board: Board, tell: Callable[[News], None]) -> None:
        """``tell`` is called from another thread."""
        self._board = board
        self._worker = Worker("understudy-board", tell)
        self._entries = _Outbox[HistoryEntry]()
        self._answers = _Outbox[tuple[Request, Answer]]()
        self._asked = _Outbox[Request]()

    def note(self, entry: HistoryEntry) -> None:
        self._entries.put(entry)

    def reply(self, request: Request, answer: Answer) -> None:
        self._answers.put((request, answer))

    def ask(self, request: Request) -> None:
        self._asked.put(request)

    def look(self, member: Member) -> None:
        """Publish ``member`` and tell the news; nothing while the look before is under way."""
        self._worker.do(lambda: self._look(member))

    def farewell(self, member: Member) -> None:
        """`look` for the last time; waits for it, but not long."""
        self._worker.wait(FAREWELL)
        self.look(member)
        self._worker.wait(FAREWELL)

    def _look(self, member: Member) -> News:
        board = self._board
        try:
            board.publish(member)
            self._asked.send(board.ask)
            self._answers.send(lambda given: board.answer(*given))
            self._entries.send(board.append)
            shown = board.read()
            return News(shown.members, shown.requests, shown.history)
        except Exception as error:  # a third party's board too; it is told, and goes on without
            return News(trouble=redact(f"{type(error).__name__}: {error}"))
