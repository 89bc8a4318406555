"""A node's machine with a store in memory, for tests that go event by event."""

from __future__ import annotations

import random

from understudyd.config.model import Group
from understudyd.guard.words import Started
from understudyd.health.port import Health
from understudyd.lock.keeper import Keeper
from understudyd.lock.memory import Store
from understudyd.lock.words import Extend, Read, Seen, Swap, Tick
from understudyd.sidecar.node import Machine
from understudyd.sidecar.phase import Phase
from understudyd.sidecar.words import (
    Action,
    Check,
    Checked,
    Event,
    Peers,
    Prepared,
    Say,
)
from understudyd.testing.groups import a_group

__all__ = ["NodeContender", "names"]


class NodeContender:
    """A machine whose lock is a store in memory, which answers at once while `reaches`."""

    def __init__(self, store: Store, group: Group | None = None, name: str = "a") -> None:
        group = group or a_group()
        keeper = Keeper("g", name, f"{name}-1", group.timings)
        self.store = store
        self.machine = Machine(group, group.nodes[name], keeper, random.Random(1))
        self.now = 1000.0
        self.reaches = True
        self.did: list[Action] = []
        self.said: list[str] = []
        self.feed(Peers(()))

    def feed(self, *events: Event) -> list[Action]:
        """What was ordered, without the talk to the store."""
        before = len(self.did)
        for event in events:
            for action in self.machine.receive(event, self.now):
                self._obey(action)
        return self.did[before:]

    def _obey(self, action: Action) -> None:
        match action:
            case Read(attempt) if self.reaches:
                self.feed(Seen(attempt, self.store.observe()))
            case Swap(attempt, expected, record) if self.reaches:
                self.feed(Seen(attempt, self.store.swap(expected, record)))
            case Say(_, text):
                self.said.append(text)
            case Read() | Swap():
                pass
            case _:
                self.did.append(action)

    def go_on(self, seconds: float) -> list[Action]:
        before = len(self.did)
        end = self.now + seconds
        while self.machine.due <= end:
            self.now = max(self.now, self.machine.due)
            self.feed(Tick())
        self.now = end
        return self.did[before:]

    @property
    def token(self) -> int:
        assert self.machine.token is not None
        return self.machine.token

    def check(self, ok: bool) -> list[Action]:
        """Answer the health check under way, or the next one."""
        checks = [action for action in self.did if isinstance(action, Check)]
        return self.feed(Checked(checks[-1].number, Health(ok, "so it is")))

    def become_master(self) -> NodeContender:
        self.go_on(5)
        self.feed(Prepared(self.token), Started(self.token, 77))
        self.check(True)
        assert self.machine.phase is Phase.MASTER
        return self


def names(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions if not isinstance(action, Extend)]
