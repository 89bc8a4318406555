"""The outcomes side by side: a table for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.testing.demo.outcome import Outcome
from understudy.testing.demo.plan import Load

LEGEND = """\
lost: delay() returned, no worker executed the task and no queue holds it.
pause: no task was executed anywhere, while publishers were at work.
Understudy's delay() returns when a broker has confirmed; a publisher that
waits for that sends nothing meanwhile. Rate, faults and heartbeat are the same."""

__all__ = ["as_json", "print_report"]


def as_json(load: Load, versions: dict[str, str], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The whole report."""
    return {
        "load": vars(load),
        "versions": versions,
        "runs": [outcome.as_json() for outcome in outcomes],
        "ok": all(outcome.is_clean for outcome in outcomes if outcome.is_ours),
    }


def print_report(console: Console, versions: dict[str, str], outcomes: Sequence[Outcome]) -> None:
    """The table, what was done when, and the verdict on Understudy."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("tasks")
    for outcome in outcomes:
        table.add_column(outcome.contestant.name, justify="right", no_wrap=True)
    for label, cells in _rows(outcomes):
        table.add_row(label, *cells)
    console.print()
    console.print(table)
    console.print()
    _say(console, LEGEND, "dim")
    console.print()
    for outcome in outcomes:
        done = ", ".join(
            f"{event.at:.1f} s {event.what} {event.broker or ''}".rstrip()
            for event in outcome.events
        )
        _say(console, f"{outcome.contestant.name}: {done}")
        if outcome.first_error:
            _say(console, f"  first error: {outcome.first_error[:200]}")
    _say(console, ", ".join(f"{name} {number}" for name, number in versions.items()))
    console.print()
    for outcome in outcomes:
        if outcome.is_ours:
            _verdict(console, outcome)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style))


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Text]]]:
    def bad(number: int) -> Text:
        return Text(f"{number}", "bold red" if number else "")

    def plain(text: str) -> Text:
        return Text(text)

    return [
        ("sent: delay() returned", [plain(f"{o.sent}") for o in outcomes]),
        ("executed", [plain(f"{o.executed}") for o in outcomes]),
        ("lost", [bad(o.lost) for o in outcomes]),
        ("stranded in a queue", [bad(o.stranded) for o in outcomes]),
        ("executed once more", [plain(f"{o.duplicates}") for o in outcomes]),
        ("errors raised by delay()", [bad(sum(o.errors.values())) for o in outcomes]),
        ("longest delay() call", [_longest_call(o) for o in outcomes]),
        ("longest pause", [plain(f"{o.longest_pause:.1f} s") for o in outcomes]),
        ("publishers hung, killed", [bad(o.hung_publishers) for o in outcomes]),
        ("workers stuck, killed", [bad(len(o.stuck_workers)) for o in outcomes]),
    ]


def _longest_call(outcome: Outcome) -> Text:
    if outcome.hung_publishers:
        return Text(f"hung, > {outcome.longest_call:.1f} s", "bold red")
    return Text(f"{outcome.longest_call:.2f} s")


def _verdict(console: Console, outcome: Outcome) -> None:
    name = outcome.contestant.name
    if outcome.is_clean:
        _say(console, f"{name}: nothing lost, no error, no hang.", "bold green")
        return
    hung = ", hung" if outcome.hung_publishers else ""
    text = f"{name}: lost {outcome.lost}, raised {sum(outcome.errors.values())}{hung}."
    _say(console, text, "bold red")
