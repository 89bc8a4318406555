"""What several commands have in common: options, and how things are printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from understudyd.config.values import Bad, Said, duration

__all__ = ["about_one", "echo", "empty_table", "next_turn", "print_rich", "seconds"]

HELP = "The configuration, understudy.toml."


def seconds(_: click.Context, param: click.Parameter, value: str) -> float:
    """``20s``, ``500ms``, ``2m``."""
    try:
        return duration(Said(value))
    except Bad as exc:
        raise click.BadParameter(f'"{value}" {exc}', param=param) from None


def about_one(metavar: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """The argument ``name`` and the options that all commands have about a group or a bridge; it
    may be left out where the metavar stands in brackets."""

    def add(command: Callable[..., int]) -> Callable[..., int]:
        is_required = not metavar.startswith("[")
        command = click.argument("name", metavar=metavar, required=is_required)(command)
        command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
        option = click.option("-c", "--config", "path", metavar="FILE", required=True, help=HELP)
        return option(command)

    return add


def next_turn(left: int, interval: float) -> int:
    """Wait for the next look; how many there are left."""
    if left != 1:
        time.sleep(interval)
    return left - 1


def empty_table(*columns: str) -> Table:
    """A table that folds what does not fit, on a narrow terminal; nothing is cut off."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def echo(text: Sequence[str]) -> None:
    for line in text:
        click.echo(line)


def print_rich(shown: RenderableType) -> None:
    Console().print(shown)
