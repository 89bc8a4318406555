"""How bridges are printed: a table for people, plain lines for programs.

Rules
* What is not known is ``?``, what there is none of is ``-``.
* Why a bridge does not run comes first, so that a low terminal cuts off what matters less.
* A table that does not fit the terminal is a paragraph for each bridge instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from understudyd.bridge.counts import messages
from understudyd.bridge.parked import Parked, Retried
from understudyd.bridge.status import TROUBLE
from understudyd.cli.network.look import Look
from understudyd.cli.parts import empty_table

__all__ = ["Overview", "lines", "parked_lines", "parked_table", "retried_lines"]

STYLES = {"running": "green", "paused": "cyan", "pausing": "cyan"}
RARE = (
    *("dropped", "expired", "duplicates", "spooled", "spooled-bytes"),
    *("requests", "replies", "replies-lost"),
)
"""Left out of a table while nothing was."""


def _facts(told: dict[str, Any]) -> dict[str, str]:
    """Of a bridge or a link."""
    return {
        "rate": f"{told['rate']:g}/s",
        "in-flight": str(told["in_flight"]),
        "oldest": "-" if told["oldest_s"] is None else f"{told['oldest_s']:.1f}s",
        "waiting": "?" if told["lag"] is None else str(told["lag"]),
        **{
            name: str(told[name])
            for name in ("forwarded", "parked", "retried", "dropped", "expired")
        },
        "duplicates": str(told.get("duplicates", 0)),
        "spooled": _or_none(told.get("spooled")),
        "spooled-bytes": _or_none(told.get("spooled_bytes")),
        "requests": str(told.get("requests", 0)),
        "replies": str(told.get("replies", 0)),
        "replies-lost": str(told.get("replies_lost", 0)),
    }


def _or_none(count: int | None) -> str:
    return "-" if count is None else str(count)


def lines(look: Look) -> list[str]:
    told = []
    for bridge in look.bridges:
        ends = f"source {bridge['source']} target {bridge['target']}"
        told.append(f"bridge {bridge['name']} {_line(bridge)} {ends}{_why(bridge)}")
        if len(bridge["links"]) > 1:
            told += [
                f"link {bridge['name']} {link['destination']} {_line(link)}{_why(link)}"
                for link in bridge["links"]
            ]
    return [*told, *(f"bridge {name} not run" for name in look.missing)]


def _line(told: dict[str, Any]) -> str:
    return " ".join([told["state"], *(f"{name} {text}" for name, text in _facts(told).items())])


def _why(told: dict[str, Any]) -> str:
    return f" reason {told['reason']}" if told["reason"] else ""


class Overview:
    """All bridges, as wide as the terminal is."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        if Measurement.get(console, options.update(width=1000), table).maximum <= options.max_width:
            for bridge in self._look.bridges:
                yield from _reason(bridge, f"{bridge['name']} is ")
            yield table
        else:
            yield from self._paragraphs()
        for bridge in self._look.bridges:
            yield _ends(bridge)
            if bridge["last_error"] and not bridge["reason"]:
                last = f"  last error: {bridge['last_error']}"
                yield Text(last, "dim", overflow="fold")

    def _table(self) -> Table:
        rows = list(self._rows())
        names = [
            name
            for name in (_facts(rows[0][1]) if rows else ())
            if name not in RARE or any(_facts(told)[name] not in ("0", "-") for _, told in rows)
        ]
        table = empty_table("bridge", "state", *names)
        for name, told in rows:
            facts = _facts(told)
            cells = (_cell(column, facts[column]) for column in names)
            table.add_row(name, _state(told), *cells)
        for missing in self._look.missing:
            table.add_row(Text(missing, "bold"), Text("not run", "yellow"), *[""] * len(names))
        return table

    def _rows(self) -> Iterator[tuple[Text, dict[str, Any]]]:
        for bridge in self._look.bridges:
            yield Text(bridge["name"], "bold"), bridge
            if len(bridge["links"]) > 1:
                for link in bridge["links"]:
                    yield Text(f"  {link['destination']}", "dim"), link

    def _paragraphs(self) -> Iterator[RenderableType]:
        for name, told in self._rows():
            yield Text.assemble(name, " ", _state(told))
            if "links" in told:
                yield from _reason(told, "  ")
            facts = ", ".join(
                f"{title} {text}"
                for title, text in _facts(told).items()
                if title not in RARE or text not in ("0", "-")
            )
            yield Padding(Text(facts), (0, 0, 0, 4))
        for missing in self._look.missing:
            yield Text.assemble((missing, "bold"), " ", ("not run", "yellow"))


def _reason(bridge: dict[str, Any], before: str) -> Iterator[Text]:
    if bridge["reason"]:
        style = "red" if bridge["state"] in TROUBLE else "yellow"
        told = f"{before}{bridge['state']}: {bridge['reason']}"
        yield Text(told, style, overflow="fold")


def _ends(bridge: dict[str, Any]) -> Text:
    said = f"{bridge['name']}: {bridge['source']} -> {bridge['target']}"
    if len(bridge["links"]) == 1:
        said += f", {bridge['links'][0]['destination']}"
    return Text(said, "dim", overflow="fold")


def _state(told: dict[str, Any]) -> Text:
    style = STYLES.get(told["state"], "red" if told["state"] in TROUBLE else "yellow")
    return Text(told["state"], style)


def _cell(column: str, text: str) -> Text:
    return Text(text, "yellow" if column == "parked" and text != "0" else "")


def parked_lines(found: Sequence[Parked]) -> list[str]:
    told = []
    for queue in found:
        told.append(f"queue {queue.place} {queue.name} {_count(queue)}")
        told += [
            f"parked {queue.name} {one.destination} at {one.at or '-'} {one.size} bytes "
            f"reason {one.reason or '-'}"
            for one in queue.messages
        ]
    return told


def _count(queue: Parked) -> str:
    return f"unknown: {queue.error}" if queue.count is None else messages(queue.count)


def parked_table(found: Sequence[Parked]) -> RenderableType:
    parts: list[RenderableType] = []
    for queue in found:
        head = Text.assemble((queue.name, "bold"), f" at {queue.place}: {_count(queue)}")
        parts.append(head)
        if not queue.messages:
            continue
        table = empty_table("for", "parked at", "bytes", "reason")
        for one in queue.messages:
            cells = (one.destination, one.at or "?", str(one.size), one.reason)
            table.add_row(*(Text(cell) for cell in cells))
        parts.append(table)
        if queue.count is not None and queue.count > len(queue.messages):
            parts.append(Text(f"… and {queue.count - len(queue.messages)} more", "dim"))
    return Group(*parts)


def retried_lines(done: Sequence[Retried]) -> list[str]:
    told = []
    for one in done:
        count = f"unknown: {one.error}"
        if one.moved is not None:
            count = f"{one.moved} sent, {one.left} left"
        told.append(f"{one.name} at {one.place}: {count}")
        told += [f"  {reason}" for reason in one.reasons]
    return told
