"""What one sidecar needs of the configuration file, read at the start and again for a reload."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import ConfigurationError
from understudyd.config import about, check_here, load, select_node
from understudyd.config.model import Api, Estate, Group, Node
from understudyd.guard.launch import look_up
from understudyd.health.checks import make
from understudyd.health.port import HealthCheck

__all__ = ["Settings", "check_reload", "read"]


@dataclass(frozen=True)
class Settings:
    estate: Estate
    group: Group
    node: Node
    check: HealthCheck

    @property
    def api(self) -> Api:
        return self.estate.api

    @property
    def key(self) -> str:
        return f"groups.{self.group.name}.nodes.{self.node.name}"


def read(
    file: Path, address: str, content: bytes | None = None, *, is_tried: bool = False
) -> Settings:
    """``address``: GROUP/NODE. ``content``: of the file, where it is known. Raises
    ConfigurationError, also for what this machine lacks unless that ``is_tried`` already."""
    estate = load(file, os.environ, content)
    group, node = select_node(estate, address)
    if not is_tried:
        check_here(estate, group, node)
    user = node.broker.user
    if user is not None:
        with about(estate, f"groups.{group.name}.nodes.{node.name}.broker.user"):
            look_up(user)
    with about(estate, f"groups.{group.name}.nodes.{node.name}.broker.health"):
        check = make(node)
    return Settings(estate, group, node, check)


def check_reload(running: Settings, wanted: Settings) -> None:
    """Raises ConfigurationError for what only a restart can change: it is part of the lock; of the
    stores, any two reigns need most of one list."""
    fixed = {
        "lock": (running.group.lock.reveal(), wanted.group.lock.reveal()),
        "store": (running.group.stores, wanted.group.stores),
        "timings": (running.group.timings, wanted.group.timings),
        f"nodes.{running.node.name}.broker.driver": (
            running.node.broker.driver,
            wanted.node.broker.driver,
        ),
    }
    for key, (before, now) in fixed.items():
        if before != now:
            raise ConfigurationError(
                f"{wanted.estate.path}: groups.{wanted.group.name}.{key} can't be changed while "
                "the sidecar runs; restart it, and the other nodes of the group with it"
            )
