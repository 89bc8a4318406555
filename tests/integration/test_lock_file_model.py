"""Several keepers over one real lock file, in simulated time: never two masters.

The file is deleted, writes fail before or after they are in it, sidecars die and leave their broker
with the locked descriptor until its guard kills it at the deadline, nodes hand over.
"""

from __future__ import annotations

import os
import random
from collections import deque
from pathlib import Path

import pytest

from understudyd.lock.file import FileBackend
from understudyd.lock.keeper import Keeper
from understudyd.lock.port import Observation, Unavailable
from understudyd.lock.timings import PRESETS
from understudyd.lock.words import (
    Action,
    Event,
    Extend,
    Failed,
    Fence,
    Fenced,
    Permit,
    Promote,
    Read,
    Released,
    Seen,
    Step,
    Swap,
    Tick,
)

pytestmark = pytest.mark.integration

STEP = 0.05  # s of simulated time
TROUBLE, HEALING, CALM = 900, 300, 300  # steps
MOST_AT_ONCE = 200  # actions in one moment; more are a loop


class World:
    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.now = 0.0
        self.failing = 0.0  # how likely a call of the backend fails
        self.reigns: list[str] = []
        self.nodes = [Node(self, name) for name in "abc"]

    @property
    def masters(self) -> list[str]:
        return [node.name for node in self.nodes if node.broker is not None]

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.now += STEP
            for node in self.random.sample(self.nodes, len(self.nodes)):
                node.go_on()

    def trouble(self) -> None:
        node = self.random.choice(self.nodes)
        match self.random.choice(["delete", "hand over", "kill", "kill"]):
            case "delete":
                self.path.unlink(missing_ok=True)
            case "hand over" if node.is_alive:
                node.feed(Step("switchover"))
            case "kill" if node.is_alive:
                node.die()
            case "kill" if node.broker is None:
                node.start()


class Node:
    """A sidecar; its broker is the inherited descriptor, which its guard closes at the deadline."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.broker: int | None = None
        self._world = world
        self._life = 0
        self._deadline = 0.0
        self.start()

    def start(self) -> None:
        self._life += 1
        self.is_alive = True
        self._backend = FileBackend(self._world.path, local=True)
        self._keeper = Keeper("g", self.name, f"{self.name}-{self._life}", PRESETS["fast"])
        self.feed(Permit(True))

    def die(self) -> None:
        self.is_alive = False
        self._backend.close()

    def go_on(self) -> None:
        if self._world.now >= self._deadline:
            self.kill_broker()
        if self.is_alive and self._keeper.due <= self._world.now:
            self.feed(Tick())

    def kill_broker(self) -> None:
        if self.broker is not None:
            os.close(self.broker)
            self.broker = None

    def feed(self, event: Event) -> None:
        todo = deque([event])
        for _ in range(MOST_AT_ONCE):
            if not todo:
                return
            for action in self._keeper.receive(todo.popleft(), self._world.now):
                todo.extend(self._obey(action))
        raise AssertionError(f"{self._keeper} does not come to rest")

    def _obey(self, action: Action) -> list[Event]:
        match action:
            case Read(attempt) | Swap(attempt):
                try:
                    return [Seen(attempt, self._call(action))]
                except Unavailable as exc:
                    return [Failed(attempt, str(exc))]
            case Promote(_, deadline):
                assert self._backend.descriptor is not None, "master without the lock"
                self.broker = os.dup(self._backend.descriptor)
                self._deadline = deadline
                self._world.reigns.append(self.name)
                assert self._world.masters == [self.name], self._world.now
            case Extend(deadline):
                self._deadline = max(self._deadline, deadline)
            case Fence():
                self.kill_broker()
                return [Fenced()]
            case Released():
                self._backend.close()
        return []

    def _call(self, action: Read | Swap) -> Observation:
        with pytest.MonkeyPatch.context() as patch:
            if self._world.random.random() < self._world.failing:
                patch.setattr(os, self._world.random.choice(["pwrite", "fdatasync"]), fail)
            if isinstance(action, Read):
                return self._backend.read()
            return self._backend.swap(action.expected, action.record)

    def close(self) -> None:
        self.kill_broker()
        self._backend.close()


def fail(*_: object) -> int:
    raise OSError(5, "input/output error")


@pytest.mark.parametrize("seed", range(15))
def test_never_two_masters(tmp_path: Path, seed: int) -> None:
    """Catalogue 9, 10, 12, 19, 51, 53, 54, in any mix."""
    world = World(tmp_path / "lock", seed)
    world.failing = 0.03
    for _ in range(TROUBLE):
        world.go_on(1)
        if world.random.random() < 0.03:
            world.trouble()
    world.failing = 0.0
    for node in world.nodes:
        if not node.is_alive:
            node.start()
    world.go_on(HEALING)
    assert len(world.reigns) > 1
    (master,), reigns = world.masters, len(world.reigns)
    world.go_on(CALM)
    assert (world.masters, len(world.reigns)) == ([master], reigns)
    for node in world.nodes:
        node.close()


def test_a_deleted_file_gives_no_two_masters_and_its_holder_comes_back(tmp_path: Path) -> None:
    """Catalogue 51."""
    world = World(tmp_path / "lock")
    world.go_on(100)
    (first,) = world.masters
    world.path.unlink()
    world.go_on(200)
    (second,) = world.masters
    assert second != first
    for node in world.nodes:
        if node.name != first:
            node.feed(Permit(False))
    (holder,) = [node for node in world.nodes if node.name == second]
    holder.feed(Step("switchover"))
    world.go_on(20)
    assert world.masters == [first]
    for node in world.nodes:
        node.close()
