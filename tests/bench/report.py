"""What a run shows: progress on standard error, a table on standard output, and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text
from tests.bench.lab import BODY, QUEUE_LIMIT, Lab
from tests.bench.outcome import Outcome

__all__ = ["Progress", "print_table", "settings", "write_json"]

PLAIN_WIDTH = 120  # columns where the output is no terminal
PACKAGES = ("kombu", "celery", "amqp", "pika", "stomp.py")


class Progress:
    """Bars on a terminal, one line for each case elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._began = 0.0
        self._name = ""

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, name: str, rounds: int) -> None:
        self._name, self._began = name, time.monotonic()
        self._task = self._bars.add_task(name, total=rounds)
        self._say(f"{name}: {rounds} round{'s' * (rounds > 1)} …")

    def step(self) -> None:
        self._bars.advance(self._task)

    def end(self, found: Sequence[Outcome]) -> None:
        """Tell what was found: a run that is cut off later has said so much."""
        self._say(f"{self._name}: done in {time.monotonic() - self._began:.1f} s")
        for outcome in found:
            figure = f"{outcome.value:.2f}{outcome.unit} ({outcome.spread})"
            self._say(f"{outcome.name}: {outcome.ours}, peer {outcome.peer}, {figure}")

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            print(line, file=sys.stderr, flush=True)


def settings(lab: Lab, began: float) -> dict[str, object]:
    """What the figures depend on, beside the code."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "took_s": round(time.time() - began),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "broker": lab.version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)),
        "load": [round(load, 2) for load in os.getloadavg()],
        "body_bytes": len(BODY),
        "delivery_mode": "persistent",
        "queue": f"classic, durable, at most {QUEUE_LIMIT:,} messages (oldest dropped), purged "
        "before each round, for all peers",
    }


def print_table(outcomes: Sequence[Outcome], facts: dict[str, object]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH, highlight=False, no_color=True)
    table = Table(title="understudy beside its peers")
    for heading in ("case", "understudy", "peer", "figure", "spread", "bar", ""):
        table.add_column(heading, justify="left" if heading in ("case", "") else "right")
    for outcome in outcomes:
        style = "green" if outcome.verdict == "meets" else "bold red"
        figure = f"{outcome.value:.2f}" if outcome.value % 1 else f"{outcome.value:g}"
        table.add_row(
            outcome.name,
            outcome.ours,
            outcome.peer,
            f"{figure}{outcome.unit}",
            outcome.spread,
            str(outcome.bar),
            Text(outcome.verdict, style),
        )
    console.print(table)
    for outcome in outcomes:
        for line in (*outcome.notes, *outcome.flaws):
            console.print(Text(f"{outcome.name}: {line}"))
    console.print()
    for name, value in facts.items():
        console.print(Text(f"{name}: {value}", "dim"))


def write_json(file: Path, outcomes: Sequence[Outcome], facts: dict[str, object]) -> None:
    cases = [{**asdict(outcome), "verdict": outcome.verdict} for outcome in outcomes]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": facts, "cases": cases}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
