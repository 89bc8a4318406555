"""The commands of ``understudy cluster``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

import click
from rich.console import Console
from rich.live import Live

from understudyd.cli.cluster import order, show
from understudyd.cli.cluster.look import Look, look, look_at_history
from understudyd.cli.parts import about_one, echo, next_turn, print_rich, seconds
from understudyd.config import Estate, Group, load, select_group

__all__ = ["cluster"]


@click.group()
def cluster() -> None:
    """Look at master/slave groups, move and pause them.

    Asks the nodes' APIs. Works through the lock's store where no API answers, and gives its orders
    there where the configuration has no token.
    """


@cluster.command("list")
@about_one("[GROUP]")
def list_(path: str, name: str | None, as_json: bool) -> int:
    """Show who is master. All groups, or one."""
    estate, groups = _groups(path, name)
    looks = [look(estate, group) for group in groups]
    _print(looks, as_json)
    return 0 if all(one.source for one in looks) else 1


def _print(looks: Sequence[Look], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([one.to_json() for one in looks], indent=2))
    elif sys.stdout.isatty():
        print_rich(show.tables(looks))
    else:
        echo([line for one in looks for line in show.lines(one)])


@cluster.command()
@about_one("[GROUP]")
@click.option("--interval", callback=seconds, default="500ms", help="Between two looks (500ms).")
@click.option("--count", type=click.IntRange(1), help="Look so often and end.")
def watch(path: str, name: str | None, as_json: bool, interval: float, count: int | None) -> int:
    """Show it again and again, until Ctrl-C.

    On a terminal a table; else a group's lines, or with --json its object on one line, whenever
    something has changed.
    """
    estate, groups = _groups(path, name)
    left = count or -1
    try:
        if sys.stdout.isatty() and not as_json:
            with Live(console=Console(), auto_refresh=False) as live:
                while left:
                    live.update(
                        show.tables([look(estate, group) for group in groups]), refresh=True
                    )
                    left = next_turn(left, interval)
            return 0
        last: dict[str, object] = {}
        while left:
            for group in groups:
                seen = look(estate, group)
                if last.get(group.name) != (facts := _facts(seen)):
                    last[group.name] = facts
                    told = json.dumps(seen.to_json()) if as_json else "\n".join(show.lines(seen))
                    click.echo(told)
                    sys.stdout.flush()
            left = next_turn(left, interval)
    except KeyboardInterrupt:
        pass
    return 0


def _facts(seen: Look) -> object:
    """What of a look is news when it changes: all but the ages."""
    nodes = [(node.name, node.role, node.state, node.healthy) for node in seen.cluster.nodes]
    return show.summary(seen), nodes, seen.errors.keys(), seen.source


def _move(
    path: str, name: str | None, as_json: bool, command: str, to: str | None, wait: float
) -> int:
    estate, group = _group(path, name)
    if to is not None and to not in group.nodes:
        raise click.UsageError(
            f"{group.name} has no node {to} (there are: {', '.join(group.nodes)})"
        )
    began = time.monotonic()
    given = order.give(estate, group, command, to)
    seen = order.wait_until(estate, group, given, order.moved(given, to), wait)
    told = {
        "group": group.name,
        "master": seen.cluster.master,
        "token": seen.cluster.token,
        "way": given.way,
        "took_s": round(time.monotonic() - began, 3),
    }
    text = "{master} is master of {group} now (token {token}), after {took_s} s"
    click.echo(json.dumps(told) if as_json else text.format_map(told))
    return 0


def _moving(command: Callable[..., int]) -> Callable[..., int]:
    command = click.option(
        "--to", metavar="NODE", help="The node to be master; else the best one."
    )(command)
    return click.option(
        "--wait", callback=seconds, default="2m", help="How long to wait for the new master (2m)."
    )(command)


@cluster.command()
@about_one("[GROUP]")
@_moving
def switchover(path: str, name: str | None, as_json: bool, to: str | None, wait: float) -> int:
    """Make another node master, if it is ready to."""
    return _move(path, name, as_json, "switchover", to, wait)


@cluster.command()
@about_one("[GROUP]")
@_moving
def failover(path: str, name: str | None, as_json: bool, to: str | None, wait: float) -> int:
    """Make another node master, also one that is not known to be ready."""
    return _move(path, name, as_json, "failover", to, wait)


def _set_paused(path: str, name: str | None, as_json: bool, command: str) -> int:
    estate, group = _group(path, name)
    given = order.give(estate, group, command)
    wanted = command == "pause"
    order.wait_until(estate, group, given, lambda seen: seen.cluster.is_paused == wanted, 30.0)
    told = {"group": group.name, "paused": wanted, "way": given.way}
    text = f"{group.name} is paused" if wanted else f"{group.name} goes on"
    click.echo(json.dumps(told) if as_json else text)
    return 0


@cluster.command()
@about_one("[GROUP]")
def pause(path: str, name: str | None, as_json: bool) -> int:
    """Leave the group as it is, for maintenance."""
    return _set_paused(path, name, as_json, "pause")


@cluster.command()
@about_one("[GROUP]")
def resume(path: str, name: str | None, as_json: bool) -> int:
    """End a pause."""
    return _set_paused(path, name, as_json, "resume")


@cluster.command()
@about_one("[GROUP]")
def history(path: str, name: str | None, as_json: bool) -> int:
    """Show who became master when, why, and how long it took."""
    estate, group = _group(path, name)
    entries, _ = look_at_history(estate, group)
    if as_json:
        click.echo(json.dumps([entry.to_json() for entry in entries], indent=2))
    elif sys.stdout.isatty():
        print_rich(show.history_table(entries))
    else:
        echo(show.history_lines(entries))
    return 0


@cluster.command()
@about_one("[GROUP]")
def uris(path: str, name: str | None, as_json: bool) -> int:
    """Print where clients reach the group, the master first, without credentials."""
    estate, group = _group(path, name)
    master = look(estate, group).cluster.master
    found = group.uris(master)
    click.echo(json.dumps(found) if as_json else ",".join(found))
    return 0


def _groups(path: str, name: str | None) -> tuple[Estate, list[Group]]:
    """All, or the one that was named."""
    estate = load(path, os.environ)
    if name is None and estate.groups:
        return estate, list(estate.groups.values())
    return estate, [select_group(estate, name)]


def _group(path: str, name: str | None) -> tuple[Estate, Group]:
    estate = load(path, os.environ)
    return estate, select_group(estate, name)
