"""The commands of ``understudy network``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from understudy.errors import ConfigurationError
from understudyd.bridge import forget as forgetting
from understudyd.bridge import parked as parking
from understudyd.bridge.ways import Way, ways_of
from understudyd.cli.network import show
from understudyd.cli.network.look import Look, NotDone, Question, choose
from understudyd.cli.parts import about_one, echo, next_turn, print_rich, seconds
from understudyd.config.bridges import load_bridges
from understudyd.config.network import NetworkConfig, load_network

__all__ = ["network"]


@click.group()
def network() -> None:
    """Look at bridges, pause them, see to what they parked.

    Asks the process that runs them, at [network] api; what is parked is asked of the brokers.
    """


@network.command("list")
@about_one("[NAME]")
def list_(path: str, name: str | None, as_json: bool) -> int:
    """Show the bridges of the file, or one: state and why, counts, what waits."""
    _, question = _asked(path, name)
    _print(question.look(), as_json)
    return 0


def _print(look: Look, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(look.to_json(), indent=2))
    elif sys.stdout.isatty():
        print_rich(show.Overview(look))
    else:
        echo(show.lines(look))


@network.command()
@about_one("[NAME]")
@click.option("--interval", callback=seconds, default="1s", help="Between two looks (1s).")
@click.option("--count", type=click.IntRange(1), help="Look so often and end.")
def watch(path: str, name: str | None, as_json: bool, interval: float, count: int | None) -> int:
    """Show it again and again, until Ctrl-C.

    On a terminal a table; else a bridge's line, or with --json its object on one line, whenever its
    state or reason has changed. A process that is gone is waited for.
    """
    _, question = _asked(path, name)
    left = count or -1
    try:
        if sys.stdout.isatty() and not as_json:
            with Live(console=Console(), auto_refresh=False) as live:
                while left:
                    live.update(_table(question), refresh=True)
                    left = next_turn(left, interval)
            return 0
        last: dict[str, object] = {}
        while left:
            _tell_news(question, last, as_json)
            left = next_turn(left, interval)
    except KeyboardInterrupt:
        pass
    return 0


def _tell_news(question: Question, last: dict[str, object], as_json: bool) -> None:
    """What is not as it was in ``last``, by name; a process that is gone has none."""
    try:
        bridges = question.look().bridges
    except NotDone as error:
        if last.get("") != str(error):
            click.echo(json.dumps({"error": str(error)}) if as_json else f"note {error}")
        last.clear()
        last[""] = str(error)
    else:
        for bridge in bridges:
            facts = (bridge["state"], bridge["reason"])
            if last.get(bridge["name"]) != facts:
                last[bridge["name"]] = facts
                one = Look([bridge])
                click.echo(json.dumps(bridge) if as_json else show.lines(one)[0])
        last.pop("", None)
    sys.stdout.flush()


def _table(question: Question) -> RenderableType:
    """Of a process that may be gone for a while."""
    try:
        return show.Overview(question.look())
    except NotDone as error:
        return Text(str(error), "red")


@network.command()
@about_one("[NAME]")
@click.option("--wait", callback=seconds, default="30s", help="How long it may take (30s).")
def pause(path: str, name: str | None, as_json: bool, wait: float) -> int:
    """Stop a bridge at once; what is in flight goes back to its queue.

    What the target had not confirmed yet may then come twice: drain settles it first. A pause lasts
    until resume, also over restarts where [network] has a state folder. NAME may be left out where
    the file has one bridge.
    """
    return _order(path, name, as_json, "pause", wait)


@network.command()
@about_one("[NAME]")
@click.option("--wait", callback=seconds, default="30s", help="How long it may take (30s).")
def drain(path: str, name: str | None, as_json: bool, wait: float) -> int:
    """Settle what is in flight, then pause.

    NAME may be left out where the file has one bridge.
    """
    return _order(path, name, as_json, "drain", wait)


@network.command()
@about_one("[NAME]")
@click.option("--wait", callback=seconds, default="30s", help="How long it may take (30s).")
def resume(path: str, name: str | None, as_json: bool, wait: float) -> int:
    """End a pause, and see for some seconds whether the bridge runs again.

    One that has given up begins anew.

    NAME may be left out where the file has one bridge.
    """
    return _order(path, name, as_json, "resume", wait)


def _order(path: str, name: str | None, as_json: bool, verb: str, wait: float) -> int:
    name, question = _one(path, name)
    remark = question.order(name, verb)
    told = question.wait_for(name, verb, wait)
    if as_json:
        keys = ("name", "state", "reason", "in_flight", "forwarded")
        click.echo(json.dumps({**{key: told[key] for key in keys}, "remark": remark}))
    else:
        why = f": {told['reason']}" if told["reason"] else ""
        click.echo(f"{name} is {told['state']}{why}")
        if remark:
            click.echo(f"note: {remark}")
    return 0


class _ListsByDefault(click.Group):
    """``parked -c FILE NAME`` is ``parked list -c FILE NAME``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_said = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if is_said else ["list", *args])


@network.group(cls=_ListsByDefault)
def parked() -> None:
    """See to the messages that could not be forwarded; without a command, list them."""


@parked.command("list")
@about_one("[NAME]")
@click.option("--limit", type=click.IntRange(0), default=100, help="Messages of a queue (100).")
def parked_list(path: str, name: str | None, as_json: bool, limit: int) -> int:
    """Show what lies in the parking queues: how many, why, where to, since when.

    Looking takes nothing away, but brokers mark what was looked at as redelivered.
    """
    ways = _ways(path, name)
    found = asyncio.run(parking.look(ways, limit))
    if as_json:
        click.echo(json.dumps({"queues": [queue.to_json() for queue in found]}, indent=2))
    elif sys.stdout.isatty():
        print_rich(show.parked_table(found))
    else:
        echo(show.parked_lines(found))
    return _complain(found)


@parked.command()
@about_one("[NAME]")
def retry(path: str, name: str | None, as_json: bool) -> int:
    """Try each message that is parked now once more.

    What is parked at a target goes to where it was bound for; what is parked at a source goes back
    to its queue, for the bridge to try. It leaves the parking queue when that queue has confirmed
    it. What is refused, or parked again within a second or two, counts as left; then the exit code
    is 1.
    """
    done = asyncio.run(parking.retry(_ways(path, name)))
    if as_json:
        click.echo(json.dumps({"queues": [one.to_json() for one in done]}, indent=2))
    else:
        echo(show.retried_lines(done))
    return _complain(done) or int(any(one.left or one.reasons for one in done))


@network.command()
@about_one("NAME")
@click.option("--parked", "is_all", is_flag=True, help="Also the messages that are parked.")
def forget(path: str, name: str, as_json: bool, is_all: bool) -> int:
    """Remove what a bridge that is gone left at its brokers.

    Its durable subscriptions and their queues, with what waits in them, and its parking queues
    where they are empty. Refused while the bridge runs. Its section has to be in the file still:
    remove that afterwards.
    """
    config = load_network(path, os.environ)
    bridges = load_bridges(path, os.environ)
    if name not in bridges:
        raise ConfigurationError(
            f"{config.file}: bridges has no {name!r}, and only its section says what to remove: "
            "write it again (source, target, statically_included), then forget it"
        )
    if config.api is not None:
        _check_not_run(Question(config, [name]), name)
    removed = asyncio.run(forgetting.forget(ways_of([bridges[name]], config.file.parent), is_all))
    if as_json:
        click.echo(json.dumps({"name": name, "removed": [vars(one) for one in removed]}, indent=2))
    else:
        for one in removed:
            click.echo(f"{one.name} at {one.place}: {one.outcome}")
    return int(any(one.is_kept for one in removed))


def _check_not_run(question: Question, name: str) -> None:
    try:
        look = question.look()
    except NotDone:
        return  # nobody runs it there
    if look.bridges:
        raise NotDone(
            f"{name} is {look.bridges[0]['state']} in the bridge process: take it out of what that "
            "runs first (stop it, or start it with the names of the others)"
        )


def _complain(queues: Sequence[parking.Parked | parking.Retried]) -> int:
    told = [one for one in queues if one.error]
    for one in told:
        what = f"bridge {one.bridge}: {one.name} at {one.place}"
        click.echo(f"understudy: {what}: {one.error}", err=True)
    return int(bool(told))


def _asked(path: str, name: str | None) -> tuple[NetworkConfig, Question]:
    config = load_network(path, os.environ)
    names = choose(config, load_bridges(path, os.environ), name)
    return config, Question(config, names)


def _one(path: str, name: str | None) -> tuple[str, Question]:
    """The bridge that was named, or the only one."""
    config = load_network(path, os.environ)
    names = choose(config, load_bridges(path, os.environ), name)
    if len(names) > 1:
        raise ConfigurationError(f"{config.file}: say which bridge (there are: {', '.join(names)})")
    return names[0], Question(config, names)


def _ways(path: str, name: str | None) -> list[Way]:
    config = load_network(path, os.environ)
    bridges = load_bridges(path, os.environ)
    names = choose(config, bridges, name)
    return ways_of([bridges[one] for one in names], config.file.parent)
