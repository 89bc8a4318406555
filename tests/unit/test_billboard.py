"""What the board has yet to be told, while it can't be reached."""

from __future__ import annotations

from understudyd.board.memory import MemoryBoard, Store
from understudyd.board.port import HISTORY_LIMIT
from understudyd.sidecar.billboard import Billboard, News
from understudyd.status import HistoryEntry, Member, Role


class Slow(MemoryBoard):
    """Another entry comes while one is being written."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.billboard: Billboard | None = None
        self.written: list[int] = []

    def append(self, entry: HistoryEntry) -> None:
        super().append(entry)
        self.written.append(entry.token)
        if self.billboard is not None:
            late, self.billboard = self.billboard, None
            late.note(an_entry(HISTORY_LIMIT + 1))


def an_entry(token: int) -> HistoryEntry:
    return HistoryEntry(token, "a", Role.MASTER, "2026-01-01T00:00:00Z", "so it is", 1.0)


def a_member() -> Member:
    return Member(name="a", role=Role.MASTER, state="master")


def test_a_full_outbox_loses_nothing_that_it_has_room_for() -> None:
    board = Slow(Store())
    board.billboard = billboard = Billboard(board, lambda news: None)
    for token in range(1, HISTORY_LIMIT + 1):
        billboard.note(an_entry(token))
    assert billboard._look(a_member()).trouble == ""
    assert board.written == list(range(1, HISTORY_LIMIT + 2))


def test_what_could_not_be_told_is_told_later_in_order() -> None:
    store = Store()
    board = Slow(store)
    billboard = Billboard(board, lambda news: None)
    store.is_down = True
    for token in (1, 2):
        billboard.note(an_entry(token))
    assert billboard._look(a_member()) == News(trouble="Unavailable: the board is down")
    store.is_down = False
    billboard.note(an_entry(3))
    billboard._look(a_member())
    assert board.written == [1, 2, 3]
