"""What a group looks like now: asked of its nodes' APIs, and of the board for who does not answer.

Rules
* A node's own word goes first; then what the master, or another node, says of it; then the board.
* The board is asked only when it is needed: no API says who is master, or somebody is silent.
* Nobody waits for a dead host longer than `ask.PATIENCE`: all are asked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from understudy.errors import ConfigurationError
from understudyd.board.open import find_board
from understudyd.board.port import Board, Shown
from understudyd.cli import ask
from understudyd.config.here import about
from understudyd.config.model import Estate, Group, Node
from understudyd.lock.open import check_kind
from understudyd.lock.port import Unavailable
from understudyd.status import ClusterStatus, HistoryEntry, Member, NodeStatus, Role, believed

__all__ = ["Look", "board_of", "look", "look_at_history", "read_board"]

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    cluster: ClusterStatus
    source: str  # "api", "board", or "" where neither answered
    errors: dict[str, str] = field(default_factory=dict)  # by node, and "board"
    answering: tuple[str, ...] = ()  # nodes whose API works
    masters: tuple[str, ...] = ()  # nodes that say they are master; more than one is alarming
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of nodes that answer

    def to_json(self) -> dict[str, Any]:
        told = {"source": self.source, "errors": self.errors, "warnings": self.warnings}
        return {**self.cluster.to_json(), **told}


@dataclass(frozen=True)
class _Heard:
    """What one node's API said."""

    node: Node
    status: NodeStatus | None = None
    cluster: ClusterStatus | None = None
    error: str = ""


def look(estate: Estate, group: Group) -> Look:
    heard = _all(group, lambda node: _hear(estate, node))
    errors = {one.node.name: one.error for one in heard if one.error}
    told = [one for one in heard if one.status is not None and one.cluster is not None]
    masters = tuple(one.node.name for one in told if one.status and one.status.role == Role.MASTER)
    told.sort(key=lambda one: one.node.name not in masters)
    known: dict[str, Member] = {}
    paused = False
    if len(told) < len(heard):
        try:
            shown, paused = _look_at_board(estate, group)
            known |= shown
        except Unavailable as exc:
            errors["board"] = str(exc)
    source = "api" if told else "board" if "board" not in errors else ""
    for one in reversed(told):  # the master's word is the last
        assert one.cluster is not None
        known |= {member.name: member for member in one.cluster.nodes if member.seen_s is not None}
        paused = one.cluster.is_paused
    for one in told:
        assert one.status is not None
        known[one.node.name] = _own_word(one.node, one.status, known.get(one.node.name))
    nodes = tuple(known.get(name) or _unknown(node) for name, node in group.nodes.items())
    master, token = _master(told, nodes)
    silent = [node for node in nodes if node.name not in masters]
    left = {node.name: node for node in believed(silent, master)}
    nodes = tuple(left.get(node.name, node) for node in nodes)
    cluster = ClusterStatus(group.name, str(group.lock), master, token, nodes, paused)
    answering = tuple(one.node.name for one in told)
    warnings = {
        one.node.name: one.status.warnings for one in told if one.status and one.status.warnings
    }
    return Look(cluster, source, errors, answering, masters, warnings)


def look_at_history(estate: Estate, group: Group) -> tuple[list[HistoryEntry], str]:
    """The history and where it is from; the longest that anybody has. Raises Unavailable."""
    found: list[HistoryEntry] = []
    is_told = False
    for answered in _all(group, lambda node: _try(estate, node, "/history")):
        if answered is not None and answered.code == 200:
            is_told = True
            entries = [HistoryEntry.from_json(entry) for entry in answered.data]
            found = max(found, entries, key=lambda some: [entry.at for entry in some[-1:]])
    if is_told:
        return found, "api"
    try:
        return list(read_board(estate, group).history), "board"
    except Unavailable as exc:
        raise Unavailable(
            f"no sidecar of {group.name} answers, and the board beside the lock can't be read"
            f" ({exc})"
        ) from exc


def board_of(estate: Estate, group: Group) -> Board:
    """Raises Unavailable where a lock of this kind has none, ConfigurationError for what is no
    lock."""
    uri = group.lock.reveal()
    with about(estate, f"groups.{group.name}.lock"):
        board = find_board(uri, group.name, ask.PATIENCE)
        if board is None:
            check_kind(uri, group.name)
            raise Unavailable(f"locks of {uri.partition(':')[0]}: have no board")
    return board


def read_board(estate: Estate, group: Group) -> Shown:
    """Raises as `board_of` does, and Unavailable."""
    board = board_of(estate, group)
    try:
        return board.read()
    finally:
        board.close()


def _all(group: Group, question: Callable[[Node], T]) -> list[T]:
    nodes: Sequence[Node] = list(group.nodes.values())
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(question, nodes))


def _hear(estate: Estate, node: Node) -> _Heard:
    try:
        status = ask.get(node.api, estate.api, "/status")
        cluster = ask.get(node.api, estate.api, "/cluster")
        if status.code != 200 or cluster.code != 200:
            return _Heard(node, error=(status if status.code != 200 else cluster).reason)
        return _Heard(
            node, NodeStatus.from_json(status.data), ClusterStatus.from_json(cluster.data)
        )
    except ask.NoAnswer as exc:
        return _Heard(node, error=str(exc))
    except ConfigurationError:
        raise
    except (TypeError, ValueError, AttributeError):
        return _Heard(node, error="what answers there is no API of a sidecar")


def _try(estate: Estate, node: Node, path: str) -> ask.Answered | None:
    try:
        return ask.get(node.api, estate.api, path)
    except ask.NoAnswer:
        return None


def _look_at_board(estate: Estate, group: Group) -> tuple[dict[str, Member], bool]:
    shown = read_board(estate, group)
    paused = any(request.command == "pause" for request in shown.requests)
    return {member.name: member for member in shown.members}, paused


def _own_word(node: Node, status: NodeStatus, said: Member | None) -> Member:
    is_master = status.role == Role.MASTER
    known = said or _unknown(node)
    return replace(
        known,
        role=status.role,
        state=status.state,
        token=status.token,
        healthy=status.broker.healthy if is_master else known.healthy,
        seen_s=0.0,
    )


def _unknown(node: Node) -> Member:
    return Member(node.name, Role.NONE, "unknown", node.weight, str(node.api))


def _master(told: list[_Heard], nodes: Sequence[Member]) -> tuple[str | None, int | None]:
    """Who is master and its token, by the best word there is."""
    for one in told:
        if one.status is not None and one.status.role == Role.MASTER:
            return one.node.name, one.status.token
    standbys = {one.node.name for one in told if one.status and one.status.role == Role.STANDBY}
    for one in told:
        if one.cluster is not None and one.cluster.master not in (None, *standbys):
            return one.cluster.master, one.cluster.token
    if told:
        return None, None
    said = [node for node in nodes if node.role == Role.MASTER and node.seen_s is not None]
    latest = min(said, key=lambda node: (-(node.token or 0), node.seen_s), default=None)
    return (latest.name, latest.token) if latest else (None, None)
