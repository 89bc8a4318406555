"""How bridges are printed: a table for people, plain lines for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from understudyd.bridge.parked import Parked
from understudyd.bridge.status import TROUBLE
from understudyd.cli.network.look import Look
from understudyd.cli.parts import empty_table

__all__ = ["lines", "parked_lines", "parked_table", "tables"]

STYLES = {"running": "green", "paused": "cyan", "pausing": "cyan"}


def lines(look: Look) -> list[str]:
    told = []
    for bridge in look.bridges:
        ends = f"source {bridge['source']} target {bridge['target']}"
        told.append(f"bridge {bridge['name']} {_facts(bridge)} {ends}{_why(bridge)}")
        if len(bridge["links"]) > 1:
            told += [
                f"link {bridge['name']} {link['destination']} {_facts(link)}{_why(link)}"
                for link in bridge["links"]
            ]
    return [*told, *(f"bridge {name} not run" for name in look.missing)]


def _facts(told: dict[str, Any]) -> str:
    oldest = "-" if told["oldest_s"] is None else f"{told['oldest_s']:.1f}s"
    lag = "-" if told["lag"] is None else told["lag"]
    return (
        f"{told['state']} rate {told['rate']:g}/s in-flight {told['in_flight']} oldest {oldest} "
        f"waiting {lag} forwarded {told['forwarded']} parked {told['parked']} "
        f"retried {told['retried']}"
    )


def _why(told: dict[str, Any]) -> str:
    return f" reason {told['reason']}" if told["reason"] else ""


def tables(look: Look) -> RenderableType:
    table = empty_table(
        "bridge",
        "state",
        "rate",
        "in flight",
        "oldest",
        "waiting",
        "forwarded",
        "parked",
        "retried",
    )
    notes: list[Text] = []
    for bridge in look.bridges:
        table.add_row(Text(bridge["name"], "bold"), *_cells(bridge))
        links = bridge["links"]
        if len(links) > 1:
            for link in links:
                table.add_row(Text(f"  {link['destination']}", "dim"), *_cells(link))
        said = f"{bridge['name']}: {bridge['source']} -> {bridge['target']}"
        if len(links) == 1:
            said += f", {links[0]['destination']}"
        notes.append(Text(said, "dim", overflow="fold"))
        if bridge["reason"]:
            style = "red" if bridge["state"] in TROUBLE else "yellow"
            notes.append(Text(f"  {bridge['state']}: {bridge['reason']}", style, overflow="fold"))
        elif bridge["last_error"]:
            notes.append(Text(f"  last error: {bridge['last_error']}", "dim", overflow="fold"))
    for name in look.missing:
        table.add_row(Text(name, "bold"), Text("not run", "yellow"), *[""] * 7)
    return Group(table, *notes)


def _cells(told: dict[str, Any]) -> list[Text]:
    style = STYLES.get(told["state"], "red" if told["state"] in TROUBLE else "yellow")
    oldest = "" if told["oldest_s"] is None else f"{told['oldest_s']:.1f} s"
    lag = "?" if told["lag"] is None else str(told["lag"])
    parked = Text(str(told["parked"]), "yellow" if told["parked"] else "")
    return [
        Text(told["state"], style),
        Text(f"{told['rate']:g}/s"),
        Text(str(told["in_flight"])),
        Text(oldest),
        Text(lag),
        Text(str(told["forwarded"])),
        parked,
        Text(str(told["retried"])),
    ]


def parked_lines(found: Sequence[Parked]) -> list[str]:
    told = []
    for queue in found:
        told.append(f"queue {queue.place} {queue.name} {queue.count} messages")
        told += [
            f"parked {queue.name} {one.destination} at {one.at or '-'} {one.size} bytes "
            f"reason {one.reason or '-'}"
            for one in queue.messages
        ]
    return told


def parked_table(found: Sequence[Parked]) -> RenderableType:
    parts: list[RenderableType] = []
    for queue in found:
        head = Text.assemble((queue.name, "bold"), f" at {queue.place}: {queue.count} messages")
        parts.append(head)
        if not queue.messages:
            continue
        table = empty_table("for", "parked at", "bytes", "reason")
        for one in queue.messages:
            cells = (one.destination, one.at or "?", str(one.size), one.reason)
            table.add_row(*(Text(cell) for cell in cells))
        parts.append(table)
        if queue.count > len(queue.messages):
            parts.append(Text(f"… and {queue.count - len(queue.messages)} more", "dim"))
    return Group(*parts)
