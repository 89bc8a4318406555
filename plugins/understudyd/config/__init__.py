"""The estate's one configuration file, `understudy.toml`."""

from __future__ import annotations

from understudyd.config.model import (
    Api,
    BrokerConfig,
    Command,
    Estate,
    Group,
    Health,
    Node,
    Place,
    Secret,
)

__all__ = [
    "Api",
    "BrokerConfig",
    "Command",
    "Estate",
    "Group",
    "Health",
    "Node",
    "Place",
    "Secret",
]
