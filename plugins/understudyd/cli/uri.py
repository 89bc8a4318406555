"""``understudy uri``: what a URI means, and whether its endpoints answer."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy import ConfigurationError, Endpoint, FailoverURI, parse, redact
from understudy.core.member import CORE_SCHEMES, MEMBER_OPTIONS
from understudy.core.options import OPTIONS
from understudy.core.redact import MASK, is_secret
from understudy.core.uri import COMPOSITES
from understudyd.cli.probe import Answer, probe_all

__all__ = ["uri"]


@click.command()
@click.argument("address", metavar="URI")
@click.option("--probe", is_flag=True, help="Connect to each endpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def uri(address: str, probe: bool, as_json: bool) -> int:
    """Explain URI: its endpoints in order, its options, and where each came from.

    URI may be - to read it from standard input, out of sight of other users' ps. With --probe the
    exit code is 0 when at least one endpoint answers, else 1.
    """
    if address == "-":
        address = sys.stdin.read()
    parsed = _parsed(address)
    answers: Sequence[Answer | None] = [None] * len(parsed.endpoints)
    if probe:
        answers = probe_all(parsed.endpoints, parsed.options.connect_timeout / 1000)
    if as_json:
        click.echo(json.dumps(_report(parsed, answers), indent=2))
    elif sys.stdout.isatty():
        _print_tables(parsed, answers)
    else:
        _print_lines(parsed, answers)
    if not probe:
        return 0
    if not answers:
        click.echo("understudy: the URI lists no endpoint to probe", err=True)
    return 0 if any(answer and answer.ok for answer in answers) else 1


def _parsed(address: str) -> FailoverURI:
    """With every scheme that kombu knows, where kombu is installed."""
    try:
        aliases = importlib.import_module("kombu.transport").TRANSPORT_ALIASES
    except ImportError:
        try:
            return parse(address)
        except ConfigurationError as error:
            if "unknown scheme" not in str(error):
                raise
            hint = 'for the schemes of kombu: pip install "understudy[kombu]"'
            raise ConfigurationError(f"{error}; {hint}") from None
    return parse(address, schemes=CORE_SCHEMES | (aliases.keys() - set(COMPOSITES)))


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


def _report(parsed: FailoverURI, answers: Sequence[Answer | None]) -> Mapping[str, Any]:
    return {
        "scheme": parsed.scheme,
        "endpoints": [
            {
                "uri": endpoint.redacted,
                "origin": "URI",
                "options": _member_options(endpoint),
                "probe": asdict(answer) if answer else None,
            }
            for endpoint, answer in zip(parsed.endpoints, answers, strict=True)
        ],
        "agents": _agents(parsed),
        "options": {
            name: {"value": value, "origin": origin}
            for name, (value, origin) in _options(parsed).items()
        },
    }


def _agents(parsed: FailoverURI) -> list[str]:
    return [redact(agent) for agent in parsed.agents]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _pairs(options: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_shown(value)}" for name, value in options.items())


def _print_lines(parsed: FailoverURI, answers: Sequence[Answer | None]) -> None:
    click.echo(f"scheme {parsed.scheme}")
    for number, (endpoint, answer) in enumerate(zip(parsed.endpoints, answers, strict=True), 1):
        words = ["endpoint", str(number), endpoint.redacted, _pairs(_member_options(endpoint))]
        click.echo(" ".join(filter(None, [*words, f"(URI) {answer}" if answer else "(URI)"])))
    for agent in _agents(parsed):
        click.echo(f"agent {agent} (URI)")
    for name, (value, origin) in _options(parsed).items():
        click.echo(f"option {name}={_shown(value)} ({origin})")


def _print_tables(parsed: FailoverURI, answers: Sequence[Answer | None]) -> None:
    console = Console()
    console.print(Text(str(parsed), overflow="fold"))
    probed = any(answers)
    table = Table("#", "endpoint", "from", "its options", *["probe"] * probed)
    for number, (endpoint, answer) in enumerate(zip(parsed.endpoints, answers, strict=True), 1):
        style = "" if answer is None else "green" if answer.ok else "red"
        cells = [str(number), endpoint.redacted, "URI", _pairs(_member_options(endpoint))]
        probe = [Text(str(answer), style)] if probed else []
        table.add_row(*(Text(cell, overflow="fold") for cell in cells), *probe)
    for agent in _agents(parsed):
        table.add_row("…", Text(agent, overflow="fold"), "URI", "announces more")
    console.print(table)
    table = Table("option", "value", "from", "meaning")
    for name, (value, origin) in _options(parsed).items():
        known = OPTIONS.get(name)
        style = "" if origin == "default" else "bold"
        cells = [name, _shown(value), origin, known.meaning if known else "for every member"]
        table.add_row(*(Text(cell, style, overflow="fold") for cell in cells))
    console.print(table)
