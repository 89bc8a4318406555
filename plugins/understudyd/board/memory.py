"""The in-memory twin of the boards, for tests and for locks that have no board of their own."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque

from understudyd.board.port import HISTORY_LIMIT, SUBJECTS, Answer, Request, Shown
from understudyd.board.stored import Reader, Stored, dump, dump_answer
from understudyd.lock.port import Unavailable
from understudyd.status import HistoryEntry, Member

__all__ = ["MemoryBoard", "Store"]


class Store:
    """What the boards of a group share."""

    def __init__(self) -> None:
        self.is_down = False
        self.lock = threading.Lock()
        self.nodes: dict[str, tuple[str, int, float]] = {}
        self.requests: dict[str, tuple[str, int, float]] = {}
        self.answers: dict[str, str | bytes] = {}
        self.history: deque[str] = deque(maxlen=HISTORY_LIMIT)
        self._count = itertools.count()

    def check(self) -> None:
        if self.is_down:
            raise Unavailable("the board is down")

    def written(self, text: str) -> tuple[str, int, float]:
        return text, next(self._count), time.monotonic()


class MemoryBoard:
    def __init__(self, store: Store | None = None) -> None:
        """Without a store: of one's own, which shows this node to itself."""
        self._store = store or Store()
        self._reader = Reader()

    def read(self) -> Shown:
        store = self._store
        with store.lock:
            store.check()
            return self._reader.read(
                _aged(store.nodes), _aged(store.requests), store.answers, store.history
            )

    def publish(self, member: Member) -> None:
        with self._store.lock:
            self._store.check()
            self._store.nodes[member.name] = self._store.written(dump(member))

    def append(self, entry: HistoryEntry) -> None:
        with self._store.lock:
            self._store.check()
            self._store.history.append(dump(entry))

    def ask(self, request: Request) -> None:
        with self._store.lock:
            self._store.check()
            self._store.requests[SUBJECTS[request.command]] = self._store.written(dump(request))

    def answer(self, request: Request, answer: Answer) -> None:
        with self._store.lock:
            self._store.check()
            self._store.answers[SUBJECTS[request.command]] = dump_answer(request, answer)

    def close(self) -> None:
        """Nothing to let go of."""


def _aged(written: dict[str, tuple[str, int, float]]) -> dict[str, Stored]:
    now = time.monotonic()
    return {name: (text, count, now - at) for name, (text, count, at) in written.items()}
