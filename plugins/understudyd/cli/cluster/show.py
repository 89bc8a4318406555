"""How groups and their histories are printed: tables for people, plain lines for programs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from understudyd.cli.cluster.look import Look
from understudyd.cli.parts import empty_table
from understudyd.status import HistoryEntry, Member, Role

__all__ = [
    "history_lines",
    "history_table",
    "lines",
    "notes",
    "summary",
    "tables",
]

STYLES = {Role.MASTER: "bold green", Role.STANDBY: "cyan"}


def lines(look: Look) -> list[str]:
    cluster = look.cluster
    head = f"group {cluster.group} {summary(look)} lock {cluster.lock}"
    return [head, *(_line(cluster.group, node) for node in cluster.nodes), *notes(look)]


def summary(look: Look) -> str:
    """On a few words, what a change of is worth a line."""
    cluster = look.cluster
    master = f"master {cluster.master} token {cluster.token}" if cluster.master else "no master"
    return f"{master} paused" if cluster.is_paused else master


def notes(look: Look) -> list[str]:
    """What somebody should know who looks at this group."""
    cluster = look.cluster
    told = [
        f"{name} does not answer: {why}" for name, why in look.errors.items() if name != "board"
    ]
    told += [f"{name}: {text}" for name, texts in look.warnings.items() for text in texts]
    if "board" in look.errors:
        told.append(f"the board can't be read: {look.errors['board']}")
    if len(look.masters) > 1:
        told.append(f"MORE THAN ONE NODE SAYS IT IS MASTER: {', '.join(look.masters)}")
    if look.source == "board":
        told.append("no API answers: this is what the nodes last wrote on the board")
    if not look.source:
        told.append("nothing is known")
    return [f"note {cluster.group} {text}" for text in told]


def tables(looks: Sequence[Look]) -> RenderableType:
    parts: list[RenderableType] = []
    for look in looks:
        parts += [Text(), *_table(look)] if parts else _table(look)
    return Group(*parts)


def _table(look: Look) -> list[RenderableType]:
    cluster = look.cluster
    title = Text.assemble(
        (cluster.group, "bold"), "  ", (summary(look), "" if cluster.master else "red")
    )
    table = empty_table("node", "state", "token", "healthy", "weight", "API", "seen")
    for node in cluster.nodes:  # the state says the role, too
        style = STYLES.get(node.role, "red" if node.seen_s is None else "yellow")
        cells = (
            Text(node.name, "bold"),
            Text(node.state, style),
            Text(str(node.token or "")),
            Text("yes" if node.healthy else "no", "" if node.healthy else "red"),
            Text(str(node.weight) + (" (never)" if node.nofailover else "")),
            Text(node.api),
            Text(_seen(node)),
        )
        table.add_row(*cells)
    warnings = (Text(note.partition(f"note {cluster.group} ")[2], "yellow") for note in notes(look))
    return [title, Text(f"lock {cluster.lock}", "dim"), table, *warnings]


def _line(group: str, node: Member) -> str:
    healthy = "healthy" if node.healthy else "unhealthy"
    token = f" token {node.token}" if node.token is not None else ""
    return (
        f"node {group}/{node.name} {_role(node)} state {node.state}{token} {healthy} "
        f"weight {node.weight} api {node.api} seen {_seen(node)}"
    )


def _role(node: Member) -> str:
    return node.role if node.seen_s is not None else "unknown"


def _seen(node: Member) -> str:
    if node.seen_s is None:
        return "never"
    return "now" if node.seen_s < 3 else f"{node.seen_s:.0f} s ago"


def history_lines(entries: Sequence[HistoryEntry]) -> list[str]:
    return [
        f"{entry.at} token {entry.token} {entry.node} {entry.role} after {entry.took_s:g} s: "
        f"{entry.cause}"
        for entry in entries
    ]


def history_table(entries: Sequence[HistoryEntry]) -> Table:
    table = empty_table("at (UTC)", "token", "node", "became", "took", "cause")
    for entry in entries:
        at = entry.at[:19].replace("T", " ")
        cells = (at, str(entry.token), entry.node, entry.role, f"{entry.took_s:g} s")
        style = STYLES.get(entry.role, "")
        table.add_row(*(Text(cell, style) for cell in cells), Text(entry.cause))
    return table
