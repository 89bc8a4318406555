"""What a node says of itself and of its group: the JSON of the API and of the board.

The fields of the answers are the contract; `to_json` of each gives its object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from understudy import __version__

__all__ = [
    "FENCING_FAILED",
    "BrokerStatus",
    "ClusterStatus",
    "HistoryEntry",
    "Member",
    "NodeStatus",
    "Role",
    "believed",
    "build",
    "stamp",
]

T = TypeVar("T")

SILENT = 5.0  # s without a word; nodes speak every second


class Role:
    """What a node is for clients and balancers; its ``state`` says more."""

    MASTER = "master"  # it has the lock and its broker was started
    STANDBY = "standby"  # ready to take over
    NONE = "none"  # neither: just starting, stopping, refused or not to be master


FENCING_FAILED = "fencing_failed"  # the state of a node whose broker can't be killed


def stamp(moment: float) -> str:
    """A wall-clock time (seconds since 1970) as text: ``2026-11-21T18:00:00.123Z``."""
    text = datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@dataclass(frozen=True)
class BrokerStatus:
    healthy: bool = False
    pid: int | None = None


@dataclass(frozen=True)
class NodeStatus:
    """``GET /status``."""

    group: str
    node: str
    role: str  # one of Role
    state: str  # of the node's machine, for people
    token: int | None = None  # of the reign of this node
    lease_remaining_s: float | None = None
    master: str | None = None  # the name of the node that has the lock, as far as known
    broker: BrokerStatus = BrokerStatus()
    warnings: tuple[str, ...] = ()  # what somebody should see to, for people
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NodeStatus:
        broker = build(BrokerStatus, data.get("broker") or {})
        warnings = tuple(map(str, data.get("warnings") or ()))
        return build(cls, {**data, "broker": broker, "warnings": warnings})


@dataclass(frozen=True)
class Member:
    """A node as the others see it: what it puts on the board, and a row of ``GET /cluster``."""

    name: str
    role: str
    state: str
    weight: int = 1
    api: str = ""
    healthy: bool = False  # its broker; a standby's: whether it could be started
    seen_s: float | None = None  # how long ago it said so; None: it never did
    nofailover: bool = False
    token: int | None = None
    stamp: int = 0  # the highest token that its store has seen
    kill_s: float = 0.0  # a master's: how long its broker may take to be killed, as is reckoned

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Member:
        return build(cls, data)


def believed(members: Iterable[Member], master: str | None) -> tuple[Member, ...]:
    """What is left of what nodes said once, when they are silent now, or another is master."""
    return tuple(
        replace(one, role=Role.NONE, state=f"silent (was {one.state})", healthy=False)
        if one.seen_s is not None
        and one.role != Role.NONE
        and (one.seen_s > SILENT or (one.role == Role.MASTER and one.name != master))
        else one
        for one in members
    )


@dataclass(frozen=True)
class ClusterStatus:
    """``GET /cluster``."""

    group: str
    lock: str  # redacted
    master: str | None = None
    token: int | None = None
    nodes: tuple[Member, ...] = ()
    is_paused: bool = False

    def to_json(self) -> dict[str, Any]:
        shown = ("name", "role", "state", "weight", "api", "healthy", "seen_s")
        return {
            "group": self.group,
            "lock": self.lock,
            "master": self.master,
            "token": self.token,
            "paused": self.is_paused,
            "nodes": [{name: getattr(node, name) for name in shown} for node in self.nodes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClusterStatus:
        nodes = tuple(Member.from_json(node) for node in data.get("nodes", ()))
        return build(cls, {**data, "nodes": nodes, "is_paused": bool(data.get("paused"))})


@dataclass(frozen=True)
class HistoryEntry:
    """One change of a role: an entry of ``GET /history``."""

    token: int
    node: str
    role: str  # what the node became: one of Role
    at: str  # as `stamp` writes it
    cause: str
    took_s: float  # s from the cause's being noticed to the role's being taken or given up

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HistoryEntry:
        return build(cls, data)


def build(kind: type[T], data: Mapping[str, Any]) -> T:
    """From what another version may have written: unknown names are left out.

    Raises TypeError where something is missing, or of another type than it should be.
    """
    wanted = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    known = {name: value for name, value in data.items() if name in wanted}
    for name, value in known.items():
        if not _fits(value, wanted[name]):
            raise TypeError(f"{name} must be {wanted[name]}, not {value!r}")
    return kind(**known)


def _fits(value: object, wanted: str) -> bool:
    """Whether it is of this type, as an annotation writes it; of types of ours nothing is said."""
    kinds = [_KINDS.get(kind, object) for kind in wanted.split(" | ")]
    if isinstance(value, bool):  # which is an int to Python
        return bool in kinds or object in kinds
    return any(isinstance(value, kind) for kind in kinds)


_KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "None": type(None),
}
