"""Groups as values, for tests that need no configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudyd.config.model import BrokerConfig, Command, Group, Health, Node, Place, Secret
from understudyd.lock.timings import PRESETS, Timings

__all__ = ["a_group"]


def a_group(
    names: str = "abc",
    *,
    timings: Timings = PRESETS["fast"],
    weights: Mapping[str, int] | None = None,
    hooks: Mapping[str, Command] | None = None,
    **broker: Any,
) -> Group:
    """A group ``g`` with a node for each letter; ``broker`` are fields of BrokerConfig."""
    settings = {"driver": "process", "command": ("broker",), "health": Health("tcp"), **broker}
    nodes = {
        name: Node(
            name,
            Secret(f"tcp://127.0.0.1:{5000 + number}"),
            api=Place("127.0.0.1", 8000 + number),
            listen=Place("127.0.0.1", 8000 + number),
            broker=BrokerConfig(**settings),
            weight=(weights or {}).get(name, 1),
        )
        for number, name in enumerate(names)
    }
    return Group("g", Secret("memory:g", "memory:g"), timings, nodes, hooks=hooks or {})
