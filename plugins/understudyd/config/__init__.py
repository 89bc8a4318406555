"""The estate's one configuration file, `understudy.toml`."""

from __future__ import annotations

from understudyd.config.here import about, check_here, select_group, select_node
from understudyd.config.load import load
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
    "about",
    "check_here",
    "load",
    "select_group",
    "select_node",
]
