"""The brokers of the demonstration, by name, and what was done to each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Literal, TypeVar

from understudy.testing.brokers import Server

__all__ = ["Brokers", "State"]

S = TypeVar("S", bound=Server)
State = Literal["down", "starting", "up", "killed", "frozen"]


class Brokers(Generic[S]):
    """Nodes that are killed and frozen at once, and started without waiting."""

    def __init__(self, nodes: Mapping[str, S], state: State = "down") -> None:
        self.nodes = dict(nodes)
        self.states: dict[str, State] = dict.fromkeys(nodes, state)
        self._pool = ThreadPoolExecutor(len(nodes))
        self._starts: dict[str, Future[S]] = {}

    @property
    def are_up(self) -> bool:
        """True when every node answers; ``came_up()`` brings this up to date."""
        return set(self.states.values()) == {"up"}

    def start(self, name: str) -> None:
        """Begin to start a node."""
        self.states[name] = "starting"
        self._starts[name] = self._pool.submit(self.nodes[name].start)

    def came_up(self) -> list[str]:
        """The nodes that have come up since last asked; raises StartFailed, ServerMissing."""
        done = [name for name, start in self._starts.items() if start.done()]
        for name in done:
            self._starts.pop(name).result()
            self.states[name] = "up"
        return done

    def kill(self, name: str) -> None:
        self.nodes[name].kill()
        self.states[name] = "killed"

    def freeze(self, name: str) -> None:
        self.nodes[name].freeze()
        self.states[name] = "frozen"

    def thaw(self, name: str) -> None:
        self.nodes[name].thaw()
        self.states[name] = "up"

    def the_one(self, state: State) -> str:
        """The name of the node in this state."""
        return next(name for name, its in self.states.items() if its == state)

    def close(self) -> None:
        """End every node, also one that is just being started."""
        while True:
            for node in self.nodes.values():
                node.close()
            if all(start.done() for start in self._starts.values()):
                break
            time.sleep(0.05)
        self._pool.shutdown()
