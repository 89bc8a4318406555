"""A keeper with a store in memory, for tests that go event by event."""

from __future__ import annotations

from understudyd.lock.keeper import Keeper
from understudyd.lock.memory import Store
from understudyd.lock.timings import PRESETS, Timings
from understudyd.lock.words import (
    Action,
    Event,
    Extend,
    Permit,
    Read,
    Seen,
    Swap,
    Tick,
)

__all__ = ["Contender", "T", "a_claim_under_way", "a_master"]


T = PRESETS["fast"]


class Contender:
    """A keeper whose reads and swaps are carried out at once, while `reaches` the store."""

    def __init__(
        self,
        store: Store,
        node: str = "a",
        *,
        life: int = 1,
        timings: Timings = T,
        group: str = "g",
        is_told: bool = False,
    ) -> None:
        self.store = store
        self.keeper = Keeper(group, node, f"{node}-{life}", timings, is_told=is_told)
        self.now = 100.0
        self.reaches = True
        self.loses_claims = False
        self.lost: list[tuple[float, Swap]] = []  # claims that were not carried out, and when
        self.looks = 0
        self.did: list[Action] = []  # what is no read or swap
        self.feed(Permit(True))

    def feed(self, event: Event) -> None:
        for action in self.keeper.receive(event, self.now):
            self.obey(action)

    def obey(self, action: Action) -> None:
        match action:
            case Read(attempt) if self.reaches:
                self.looks += 1
                self.feed(Seen(attempt, self.store.observe()))
            case Swap(_, _, record) if self.loses_claims and not record.is_void:
                self.lost.append((self.now, action))
            case Swap(attempt, expected, record) if self.reaches:
                self.feed(Seen(attempt, self.store.swap(expected, record)))
            case Read() | Swap():
                pass
            case _:
                self.did.append(action)

    def go_on(self, seconds: float) -> None:
        """Let time pass, with a Tick whenever one is due."""
        end = self.now + seconds
        while self.keeper.due <= end:
            self.now = max(self.now, self.keeper.due)
            self.feed(Tick())
        self.now = end
        self.feed(Tick())

    def kinds(self) -> list[str]:
        return [type(action).__name__ for action in self.did if not isinstance(action, Extend)]


def a_master(store: Store, node: str = "a") -> Contender:
    master = Contender(store, node)
    master.go_on(T.patience + 1)
    assert master.kinds() == ["Promote"]
    return master


def a_claim_under_way(contender: Contender) -> tuple[float, Swap]:
    """When it was sent, and the claim; the store has not seen it."""
    contender.loses_claims = True
    while not contender.lost:
        contender.go_on(0.05)
    contender.loses_claims = False
    return contender.lost[0]
