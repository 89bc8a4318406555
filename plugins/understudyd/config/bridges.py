"""The part ``[bridges.NAME]`` of `understudy.toml`, read by the process that runs bridges.

Rules
* What a destination is, is not judged here: the bridge reads its patterns itself.
* An option that belongs to bridges and is not there yet is refused, so that nobody relies on it.
* Either end is a URI, or the name of a group in the same file: then its nodes in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from understudy import ConfigurationError, parse
from understudyd.config import values
from understudyd.config.load import load, read_toml
from understudyd.config.model import Estate, Secret
from understudyd.config.table import Source, Table
from understudyd.config.values import Bad

__all__ = ["BridgeConfig", "load_bridges"]

LATER = {
    "dynamically_included": "forwarding on demand",
    "duplex": "both ways in one bridge; write a second bridge for the way back",
    "network_ttl": "a limit of hops",
    "selector": "selectors",
    "rate": "a limited rate",
    "transformer": "transformers",
    "durable_expires": "durable subscriptions that expire",
}


@dataclass(frozen=True)
class BridgeConfig:
    """One bridge; times in seconds."""

    name: str
    source: Secret
    target: Secret
    statically_included: tuple[str, ...]
    """Destinations at the source, as ``queue://NAME`` or ``topic://a.*``."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """What a destination is called at the target, where not the same."""
    excluded: tuple[str, ...] = ()
    """Goes before what is included."""
    headers_set: Mapping[str, str] = field(default_factory=dict)
    headers_remove: tuple[str, ...] = ()
    prefetch_size: int = 1000
    hold_time: float = 60.0


def load_bridges(path: str | Path, environ: Mapping[str, str]) -> dict[str, BridgeConfig]:
    """All bridges by name; raises ConfigurationError, also for what is wrong in a group."""
    estate = load(path, environ)
    file = Path(path).absolute()
    root = Table(Source(file, environ), (), read_toml(file))
    return {name: _bridge(name, table, estate) for name, table in root.tables("bridges").items()}


def _bridge(name: str, table: Table, estate: Estate) -> BridgeConfig:
    for option, what in LATER.items():
        if option in table:
            table.refuse((option,), None, f"cannot be used yet: {what}")
    included = table.take("statically_included", values.several(values.text))
    bridge = BridgeConfig(
        name,
        table.secret("source", lambda value: _end(value, estate)),
        table.secret("target", lambda value: _end(value, estate)),
        included,
        _texts(table.table("rename")),
        table.take("excluded", values.several(values.text), ()),
        _texts(table.table("headers_set")),
        table.take("headers_remove", values.several(values.text), ()),
        table.take("prefetch_size", values.whole(1, 65535), BridgeConfig.prefetch_size),
        table.take("hold_time", values.duration, BridgeConfig.hold_time),
    )
    if not included:
        table.refuse(("statically_included",), None, "names nothing")
    table.finish()
    kept = [text for text in included if bridge.rename.get(text, text) == text]
    if kept and _places(bridge.source) & _places(bridge.target):
        why = f"is a broker of the source, and {kept[0]} would go in a circle; rename it"
        table.refuse(("target",), None, why)
    return bridge


def _end(value: object, estate: Estate) -> Secret:
    """A URI of any form, or a group."""
    address = values.text(value)
    if group := estate.groups.get(address):
        members = [node.uri.reveal() for node in group.nodes.values()]
        shown = [node.uri.shown for node in group.nodes.values()]
        return Secret(f"masterslave:({','.join(members)})", f"masterslave:({','.join(shown)})")
    try:
        return Secret(address, str(parse(address)))
    except ConfigurationError as exc:
        names = f" and no group (there are: {', '.join(estate.groups)})" if estate.groups else ""
        raise Bad(f"is no address of a broker{names}: {exc}") from None


def _texts(table: Table) -> dict[str, str]:
    return {name: table.take(name, values.text) for name in table}


def _places(uri: Secret) -> set[tuple[object, ...]]:
    """Host, port and vhost of each member."""
    members = parse(uri.reveal()).endpoints
    return {(*member.identity[1:3], member.identity[5]) for member in members if member.host}
