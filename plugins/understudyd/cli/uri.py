"""``understudy uri``: what a URI means, and whether its endpoints answer."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy import ConfigurationError, Endpoint, FailoverURI, parse
from understudy.core.member import CORE_SCHEMES, MEMBER_OPTIONS
from understudy.core.options import OPTIONS
from understudy.core.redact import MASK, is_secret
from understudy.core.uri import COMPOSITES
from understudy.discovery import Look, agent_schemes, agents_of, look
from understudy.discovery.learned import ADAPTERS_OWN
from understudyd.health.probe import Answer, probe_all

__all__ = ["uri"]

STOMP = ("stomp", "stomp+ssl")


@dataclass(frozen=True)
class Row:
    """One endpoint."""

    endpoint: Endpoint
    origin: str  # "URI", or the agent that found it
    answer: Answer | None = None


@click.command(short_help="Explain a URI; with --probe, log in to its brokers.")
@click.argument("address", metavar="URI")
@click.option("--probe", is_flag=True, help="Ask each agent, connect to each endpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def uri(address: str, probe: bool, as_json: bool) -> int:
    """Explain URI: its endpoints in order, its agents, its options, and where each came from.

    URI may be - to read it from standard input, out of sight of other users' ps. With --probe the
    exit code is 0 when at least one endpoint answers, else 1.
    """
    if address == "-":
        address = sys.stdin.read()
    parsed = _parsed(address)
    agents: dict[str, Look | None] = dict.fromkeys(agents_of(parsed))
    rows = [Row(endpoint, "URI") for endpoint in parsed.endpoints]
    if probe:
        rows, agents = _probed(parsed)
    if as_json:
        click.echo(json.dumps(_report(parsed, rows, agents), indent=2))
    elif sys.stdout.isatty():
        _print_tables(parsed, rows, agents)
    else:
        _print_lines(parsed, rows, agents)
    if not probe:
        return 0
    if not rows:
        click.echo("understudy: there is no endpoint to probe", err=True)
    return 0 if any(row.answer and row.answer.ok for row in rows) else 1


def _probed(parsed: FailoverURI) -> tuple[list[Row], dict[str, Look | None]]:
    """All endpoints with their answers, and what the agents know now."""
    patience = parsed.options.connect_timeout / 1000
    schemes = CORE_SCHEMES | {endpoint.scheme for endpoint in parsed.endpoints}
    looks = look(parsed, schemes=schemes, patience=patience)
    origins = dict.fromkeys(parsed.endpoints, "URI")
    for one in looks:
        for endpoint in one.endpoints:
            origins.setdefault(endpoint, one.agent)
    rows = [Row(endpoint, origin) for endpoint, origin in origins.items()]
    answers = probe_all([row.endpoint for row in rows], patience)
    return (
        [replace(row, answer=answer) for row, answer in zip(rows, answers, strict=True)],
        {one.agent: one for one in looks},
    )


def _parsed(address: str) -> FailoverURI:
    """With every scheme that kombu knows, where kombu is installed."""
    try:
        aliases = importlib.import_module("kombu.transport").TRANSPORT_ALIASES
    except ImportError:
        try:
            return parse(address, agents=agent_schemes())
        except ConfigurationError as error:
            if "unknown scheme" not in str(error):
                raise
            hint = 'for the schemes of kombu: pip install "understudy[kombu]"'
            raise ConfigurationError(f"{error}; {hint}") from None
    schemes = CORE_SCHEMES | (aliases.keys() - set(COMPOSITES))
    return parse(address, schemes=schemes, agents=agent_schemes())


def _notes(rows: Sequence[Row]) -> list[str]:
    """What is odd about the endpoints, each and together."""
    return [*_near_misses(rows), *_mixed(rows)]


def _near_misses(rows: Sequence[Row]) -> list[str]:
    """Which options there are is for each client library to say; these look like one of ours."""
    notes = []
    for number, row in enumerate(rows, 1):
        for name in row.endpoint.query:
            # 0.7: py-amqp's locale is nearer to cafile than that
            near = difflib.get_close_matches(name.casefold(), MEMBER_OPTIONS, 1, cutoff=0.7)
            if near and row.endpoint.scheme in CORE_SCHEMES:
                notes.append(
                    f"endpoint {number} has an option {name}, which is none of Understudy's and "
                    f"left to the client library; did you mean {near[0]}?"
                )
    return notes


def _mixed(rows: Sequence[Row]) -> list[str]:
    schemes = [row.endpoint.scheme for row in rows]
    stomp = [scheme for scheme in schemes if scheme in STOMP]
    others = [scheme for scheme in schemes if scheme not in (*STOMP, *ADAPTERS_OWN)]
    if stomp and others:
        return [
            f"{stomp[0]} and {others[0]} stand in one list, and no client library speaks both: "
            "make a list for each protocol"
        ]
    return []


def _member_options(endpoint: Endpoint) -> dict[str, object]:
    """What the member says itself (or got from ``nested.*``), ours first."""
    said = {name: getattr(endpoint.options, name) for name in MEMBER_OPTIONS}
    others = {
        name: MASK if is_secret(name) or "@" in value else value
        for name, value in endpoint.query.items()
    }
    return {name: value for name, value in said.items() if value is not None} | others


def _options(parsed: FailoverURI) -> dict[str, tuple[object, str]]:
    """Name -> value and origin; numbers and booleans as such."""
    told: dict[str, tuple[object, str]] = {}
    for name, origin in parsed.origins.items():
        value: object = parsed.options.text(name)
        if name in OPTIONS:
            raw = getattr(parsed.options, OPTIONS[name].field)
            value = raw if raw is None or isinstance(raw, bool | int | float) else value
        told[name] = (value, origin)
    return told


def _report(
    parsed: FailoverURI, rows: Sequence[Row], agents: Mapping[str, Look | None]
) -> Mapping[str, Any]:
    return {
        "scheme": parsed.scheme,
        "endpoints": [
            {
                "uri": row.endpoint.redacted,
                "origin": row.origin,
                "options": _member_options(row.endpoint),
                "probe": asdict(row.answer) if row.answer else None,
            }
            for row in rows
        ],
        "agents": [
            {
                "uri": agent,
                "found": one and len(one.endpoints),
                "notes": list(one.notes) if one else [],
                "error": one.error if one else "",
            }
            for agent, one in agents.items()
        ],
        "notes": _notes(rows),
        "options": {
            name: {"value": value, "origin": origin}
            for name, (value, origin) in _options(parsed).items()
        },
    }


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _pairs(options: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_shown(value)}" for name, value in options.items())


def _told(answer: Look | None) -> str:
    """What an agent said, in words; nothing when it was not asked."""
    if answer is None:
        return ""
    count = len(answer.endpoints)
    found = f"failed: {answer.error}" if answer.error else f"found {count or 'nobody'}"
    return "; ".join([found, *answer.notes])


def _print_lines(
    parsed: FailoverURI, rows: Sequence[Row], agents: Mapping[str, Look | None]
) -> None:
    click.echo(f"scheme {parsed.scheme}")
    for number, row in enumerate(rows, 1):
        endpoint = row.endpoint
        words = ["endpoint", str(number), endpoint.redacted, _pairs(_member_options(endpoint))]
        end = f"({row.origin}) {row.answer}" if row.answer else f"({row.origin})"
        click.echo(" ".join(filter(None, [*words, end])))
    for agent, answer in agents.items():
        click.echo(f"agent {agent} (URI) {_told(answer)}".rstrip())
    for note in _notes(rows):
        click.echo(f"note: {note}")
    for name, (value, origin) in _options(parsed).items():
        click.echo(f"option {name}={_shown(value)} ({origin})")


def _print_tables(
    parsed: FailoverURI, rows: Sequence[Row], agents: Mapping[str, Look | None]
) -> None:
    console = Console()
    console.print(Text(str(parsed), overflow="fold"))
    probed = any(row.answer for row in rows) or any(agents.values())
    table = Table("#", "endpoint", "from", "its options", *["probe"] * probed)
    for number, row in enumerate(rows, 1):
        style = "" if row.answer is None else "green" if row.answer.ok else "red"
        options = _pairs(_member_options(row.endpoint))
        cells = [str(number), row.endpoint.redacted, row.origin, options]
        probe = [Text(str(row.answer), style)] if probed else []
        table.add_row(*(Text(cell, overflow="fold") for cell in cells), *probe)
    for agent, answer in agents.items():
        told = [Text(_told(answer), "red" if answer and answer.error else "")] if probed else []
        table.add_row("…", Text(agent, overflow="fold"), "URI", "announces more", *told)
    console.print(table)
    for note in _notes(rows):
        console.print(Text(note, "yellow"))
    table = Table("option", "value", "from", "meaning")
    for name, (value, origin) in _options(parsed).items():
        known = OPTIONS.get(name)
        style = "" if origin == "default" else "bold"
        cells = [name, _shown(value), origin, known.meaning if known else "for every member"]
        table.add_row(*(Text(cell, style, overflow="fold") for cell in cells))
    console.print(table)
