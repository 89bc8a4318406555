"""``python -m understudyd.testing.joined``: see the package."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.errors import UnderstudyError
from understudy.testing.brokers import ActiveMQ, RabbitMQ, start_all
from understudy.testing.demo.view import view_for
from understudyd.testing.joined.scene import FULL, QUICK, Outcome, Step, play

__all__ = ["main", "print_report"]

INTERRUPTED = 130  # as a shell says it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m understudyd.testing.joined",
        description="Join an ActiveMQ and a RabbitMQ by a bridge, send orders through it, and kill "
        "RabbitMQ, ActiveMQ and the bridge in turn. Takes about a minute, needs no broker running "
        "and leaves nothing behind.",
        epilog="Exit code: 0 when nothing was lost, 1 when something was, 2 when the "
        "demonstration could not be carried out.",
    )
    parser.add_argument("--quick", action="store_true", help="kill RabbitMQ alone")
    parser.add_argument("--json", action="store_true", help="JSON to stdout, progress to stderr")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scene and say how it went; the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json)
    logging.getLogger("understudy").addHandler(logging.NullHandler())  # the scene says it all
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        outcome = _play(QUICK if options.quick else FULL, console)
    except KeyboardInterrupt:
        console.print("interrupted; everything started was stopped")
        return INTERRUPTED
    except (UnderstudyError, OSError) as error:
        console.print(str(error), markup=False, highlight=False, style="red")
        return 2
    if options.json:
        print(json.dumps(outcome.as_json(), indent=2))
    else:
        print_report(console, outcome)
    return 0 if outcome.is_clean else 1


def _play(steps: Sequence[Step], console: Console) -> Outcome:
    active, rabbit = ActiveMQ(name="demo"), RabbitMQ(name="demo-hq")
    with ExitStack() as stack:
        stack.callback(active.close)
        stack.callback(rabbit.close)
        console.print("starting an ActiveMQ and a RabbitMQ")
        start_all(active, rabbit)
        view = stack.enter_context(view_for(console))
        folder = active.folder / "bridge"  # it goes with the broker
        folder.mkdir()
        return play(active, rabbit, steps, folder, view)


def print_report(console: Console, outcome: Outcome) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=False)
    bad = "bold red" if outcome.lost else ""
    for label, text, style in (
        ("sent: confirmed by ActiveMQ", str(outcome.sent), ""),
        ("arrived: taken from RabbitMQ", str(outcome.arrived), ""),
        ("lost", str(outcome.lost), bad),
        ("came once more", str(outcome.again), ""),
        ("longest pause", f"{outcome.longest_pause:.1f} s", ""),
    ):
        table.add_row(label, Text(text, style, justify="right"))
    console.print()
    console.print(table)
    console.print()
    console.print(Text(", ".join(outcome.events), "dim"))
    if outcome.error:
        console.print(Text(f"error: {outcome.error}", "red"))
    if outcome.is_clean:
        console.print(Text("The bridge: nothing lost.", "bold green"))
    else:
        console.print(Text(f"The bridge: lost {outcome.lost} of {outcome.sent}.", "bold red"))


if __name__ == "__main__":
    sys.exit(main())
