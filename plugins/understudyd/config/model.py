"""What `understudy.toml` says, as values. Times are seconds.

Rules
* Everything here was checked when it was loaded; nothing looks at a file, a socket or the
  environment any more.
* What may hold a password shows itself redacted; the text itself is had by `Secret.reveal`, or is
  left out of the repr (commands, environments).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from understudy import parse
from understudy.core.redact import MASK
from understudyd.lock.timings import Timings

__all__ = [
    "DRIVERS",
    "DRIVER_GROUP",
    "EXEC_COMMANDS",
    "HEALTH_KINDS",
    "HOOKS",
    "Api",
    "BrokerConfig",
    "Command",
    "Estate",
    "Group",
    "Health",
    "Network",
    "Node",
    "Place",
    "Secret",
]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

DRIVERS = ("process", "exec")
DRIVER_GROUP = "understudy.drivers"  # of entry points, for drivers of others
EXEC_COMMANDS = ("promote", "demote", "fence")  # that the driver exec needs
HEALTH_KINDS = ("amqp", "stomp", "tcp", "http", "command")
HOOKS = ("fence", "pre_promote", "post_promote", "post_demote")  # in the order of a promotion


class Secret:
    """A text that may hold a password. Shown as ``shown``, in str() and repr() alike."""

    __slots__ = ("_text", "shown")

    def __init__(self, text: str, shown: str = MASK) -> None:
        self._text = text
        self.shown = shown

    def reveal(self) -> str:
        return self._text

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"<{self.shown}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True)
class Place:
    """Where something answers or listens: ``host:port``, ``[::1]:port``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Command:
    """A program to run and how long it may take."""

    argv: tuple[str, ...] = field(repr=False)
    timeout: float = 10.0  # s


@dataclass(frozen=True)
class Health:
    """How the broker is asked whether it works."""

    kind: str = "tcp"  # one of HEALTH_KINDS
    url: str = ""  # kind http
    argv: tuple[str, ...] = field(default=(), repr=False)  # kind command
    timeout: float = 5.0  # s, of one question
    interval: float = 1.0  # s, from one question to the next
    failures: int = 3  # in a row, then the broker counts as ill


@dataclass(frozen=True)
class BrokerConfig:
    driver: str  # one of DRIVERS, or another package's
    command: tuple[str, ...] = field(default=(), repr=False)  # driver process
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    user: str | None = None  # to run the broker as
    stop_timeout: float = 20.0  # s for a clean stop, then it is killed
    start_timeout: float = 60.0  # s from starting to the first healthy answer
    local_restarts: int = 0  # restarts in place before handing over
    health: Health = Health()
    promote: Command | None = None  # driver exec, as the next two; others may use any of them
    demote: Command | None = None
    fence: Command | None = None


@dataclass(frozen=True)
class Node:
    name: str
    uri: Secret  # where clients reach this broker while it is master
    api: Place  # where others reach its sidecar
    listen: Place  # what its sidecar binds
    broker: BrokerConfig
    weight: int = 1  # the heaviest is master first
    nofailover: bool = False  # never to be master

    @cached_property
    def address(self) -> str:
        """Where clients reach it: scheme, host (as written) and port."""
        endpoint = parse(self.uri.reveal()).endpoints[0]
        scheme, _, port = endpoint.identity[:3]
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        return f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}"


@dataclass(frozen=True)
class Group:
    """A master/slave group: one logical broker."""

    name: str
    lock: Secret
    timings: Timings
    nodes: Mapping[str, Node]  # by name, in the order of the file
    stores: tuple[Path, ...] = ()  # shared folders that get the token stamp
    hooks: Mapping[str, Command] = field(default_factory=dict)  # names: HOOKS

    def uris(self, master: str | None) -> tuple[str, ...]:
        """Where clients reach the group: scheme, host and port of each node, the master's first."""
        nodes = sorted(self.nodes.values(), key=lambda node: node.name != master)
        return tuple(node.address for node in nodes)


@dataclass(frozen=True)
class Api:
    """What all APIs of the estate share."""

    token: Secret | None = None  # None: no POST is accepted
    tls_cert: Path | None = None  # with tls_key: the API speaks https
    tls_key: Path | None = None
    tls_ca: Path | None = None  # what our own clients trust; None: what the system trusts
    allow: tuple[Network, ...] = ()  # who may POST; empty: everybody who has the token


@dataclass(frozen=True)
class Estate:
    path: Path
    groups: Mapping[str, Group]
    api: Api = Api()
