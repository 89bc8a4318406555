"""The part ``[bridges.NAME]`` of `understudy.toml`, read by the process that runs bridges.

Rules
* What a destination is, is not judged here: the bridge reads its patterns itself.
* An option that belongs to bridges and is not there yet is refused, so that nobody relies on it; so
  is one of ActiveMQ's networks that a bridge has no use for (see `refused`).
* Either end is a URI, or the name of a group in the same file: then its nodes in their order.
* One broker may be both ends where the names differ. Different members of one group may not: one of
  them alone is open at a time, so that such a bridge could never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from understudy import ConfigurationError, parse
from understudy.core.option_reader import nearest
from understudyd.config import values
from understudyd.config.load import load, read_toml
from understudyd.config.model import Estate, Secret
from understudyd.config.refused import REFUSED, snake_case
from understudyd.config.table import Source, Table
from understudyd.config.values import Bad

__all__ = ["BODIES", "DEDUPS", "BridgeConfig", "load_bridges", "places"]

Place: TypeAlias = tuple[object, ...]  # host, port and vhost

BODIES = ("auto", "bytes", "text")
DEDUPS = ("off", "journal", "target")
EXAMPLE = "queue://orders"
DESTINATIONS = values.several(values.text, EXAMPLE)
NAMES = values.several(values.text, "x-internal")
PRIORITIES = values.whole(-127, 127)  # ActiveMQ keeps one in a byte
MOST_SHARDS = 32  # connections for each destination
SMALLEST_SPOOL = 1 << 20  # bytes
SEVERAL = 'for one of several brokers write "failover:(amqp://one,amqp://two)"'
LONGEST_EXPIRY = 1000 * 3600.0  # s; RabbitMQ takes 2 ** 32 ms


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
    duplex: bool = False
    """Whether the same is done from the target to the source."""
    network_ttl: int = 1
    """Brokers that a message may be forwarded to in a row; -1: any number."""
    source_name: str | None = None
    """What the broker is called in the path of messages; None: by its address."""
    target_name: str | None = None
    selector: str = ""
    rate: float | None = None
    """Messages in a second, each way; None: as many as come."""
    transformer: str = ""
    """``module:function``, see `understudyd.bridge.transform`."""
    body: str = "auto"
    """One of `BODIES`: what a body is to a broker that tells text from bytes."""
    parking: str = ""
    """The queue for what cannot be forwarded; empty: ``understudy.parking.NAME``."""
    durable_expires: float | None = None
    """How long a subscription to a topic stays that no bridge reads; None: for ever."""
    lowers_priority: bool = True
    """Whether the brokers' own consumers come first."""
    priority: int | None = None
    """Of our consumers then; None: what is usual with the broker."""
    dedup: str = "off"
    """One of `DEDUPS`: what is done about a message that comes again. ``journal``: it is written
    down that the target has it; ``target``: that, and the target is told an id to know it by."""
    replies: bool | str = True
    """Whether replies come back for which their requester waits where its own broker alone can send
    them: as with ActiveMQ's networks, where this is bridgeTempDestinations. ``all``: also those for
    ordinary queues."""
    reply_ttl: float = 300.0
    """How long after a request they may come; the address that the responder got goes then."""
    shards: int = 1
    """Connections to the target, which share the messages by their groups."""
    shard_by: str = ""
    """The header that names the group; empty: JMSXGroupID, as ActiveMQ and Artemis have it."""
    spool: Path | None = None
    """The folder for messages on their way; None: they wait at the source."""
    spool_size: int = 1 << 30
    """Bytes of it for each destination."""
    delivery_limit: int = 20
    """``x-delivery-limit`` of the source's quorum queues."""
    file: Path | None = None
    """Where it stands, to be told in errors."""


def load_bridges(path: str | Path, environ: Mapping[str, str]) -> dict[str, BridgeConfig]:
    """All bridges by name; raises ConfigurationError, also for what is wrong in a group."""
    estate = load(path, environ)
    file = Path(path).absolute()
    source = Source(file, environ)
    tables = Table(source, (), read_toml(file)).tables("bridges")
    bridges = {name: _bridge(name, table, estate) for name, table in tables.items()}
    source.check_variables("bridges")
    return bridges


def places(uri: Secret) -> frozenset[Place]:
    """Host, port and vhost of each member."""
    members = parse(uri.reveal()).endpoints
    return frozenset((*one.identity[1:3], one.identity[5]) for one in members if one.host)


def _bridge(name: str, table: Table, estate: Estate) -> BridgeConfig:
    for option in (*table, *REFUSED):
        if option in table and (why := REFUSED.get(snake_case(option))):
            table.refuse((option,), None, why)
    included: tuple[str, ...] = table.take("statically_included", DESTINATIONS, ())
    default = BridgeConfig
    ttl = table.take("network_ttl", _ttl, default.network_ttl)
    replies = table.take("bridge_temp_destinations", values.flag, default.replies)
    bridge = BridgeConfig(
        name,
        table.secret("source", lambda value: _end(value, estate)),
        table.secret("target", lambda value: _end(value, estate)),
        included,
        _texts(table, "rename", '{ "queue://a" = "queue://b" }'),
        table.take("excluded", DESTINATIONS, ()),
        _texts(table, "headers_set", '{ from = "branch" }'),
        table.take("headers_remove", NAMES, ()),
        table.take("prefetch_size", values.whole(1, 65535), default.prefetch_size),
        table.take("hold_time", values.duration, default.hold_time),
        duplex=table.take("duplex", values.flag, default.duplex),
        network_ttl=table.take("message_ttl", _ttl, ttl),
        source_name=table.take("source_name", values.name, None),
        target_name=table.take("target_name", values.name, None),
        selector=table.take("selector", values.text, default.selector),
        rate=table.take("rate", values.number(0.1, 1_000_000), None),
        transformer=table.take("transformer", _callable, default.transformer),
        body=table.take("body", values.choice(BODIES, "kind of body"), default.body),
        parking=table.take("parking", values.text, default.parking),
        durable_expires=table.take("durable_expires", values.duration_up_to(LONGEST_EXPIRY), None),
        lowers_priority=table.take("decrease_network_consumer_priority", values.flag, True),
        priority=table.take("consumer_priority_base", PRIORITIES, None),
        dedup=table.take("dedup", values.choice(DEDUPS, "way to know messages again"), "off"),
        replies=table.take("replies", _replies, replies),
        reply_ttl=table.take("reply_ttl", values.duration_up_to(LONGEST_EXPIRY), default.reply_ttl),
        shards=table.take("shards", values.whole(1, MOST_SHARDS), default.shards),
        shard_by=table.take("shard_by", values.name, default.shard_by),
        spool=table.take("spool", table.file_path, None),
        spool_size=table.take("spool_size", values.size(SMALLEST_SPOOL), default.spool_size),
        delivery_limit=table.take("delivery_limit", values.whole(1, 1_000_000), 20),
        file=table.source.file,
    )
    table.finish()
    _check(bridge, table, estate)
    return bridge


def _check(bridge: BridgeConfig, table: Table, estate: Estate) -> None:
    """What one option means together with others."""
    if not bridge.statically_included:
        why = f'names nothing to forward: write statically_included = ["{EXAMPLE}"]'
        table.refuse(("statically_included",), None, why)
    for name in bridge.headers_remove:
        if name in bridge.headers_set:
            table.refuse(("headers_remove",), name, "is in headers_set too; leave one of them out")
    if "replies" in table and "bridge_temp_destinations" in table:
        why = "is replies by another name; leave one of them out"
        table.refuse(("bridge_temp_destinations",), None, why)
    if not bridge.replies and "reply_ttl" in table:
        table.refuse(("reply_ttl",), None, "has no effect with replies = false; leave one out")
    if bridge.spool is None and "spool_size" in table:
        table.refuse(("spool_size",), None, "has no effect without spool, which is a folder")
    if bridge.priority is not None and not bridge.lowers_priority:
        why = "has no effect with decrease_network_consumer_priority = false; leave one of them out"
        table.refuse(("consumer_priority_base",), bridge.priority, why)
    if bridge.priority is not None and not any(map(_is_queue, bridge.statically_included)):
        why = "has no effect: only queues have other consumers, and none is included"
        table.refuse(("consumer_priority_base",), bridge.priority, why)
    if bridge.durable_expires is not None and all(map(_is_queue, bridge.statically_included)):
        why = "has no effect: only topics are read by subscriptions, and none is included"
        table.refuse(("durable_expires",), None, why)
    if "delivery_limit" in table and not any(map(_is_queue, bridge.statically_included)):
        why = "has no effect: only queues have one, and none is included"
        table.refuse(("delivery_limit",), bridge.delivery_limit, why)
    if "delivery_limit" in table and bridge.spool is not None:
        why = "has no effect with spool, to which queues are drained"
        table.refuse(("delivery_limit",), bridge.delivery_limit, why)
    if bridge.shards == 1 and bridge.shard_by:
        table.refuse(("shard_by",), bridge.shard_by, "has no effect without shards, 2 or more")
    here, there = places(bridge.source), places(bridge.target)
    if here == there and here:
        kept = [
            text for text in bridge.statically_included if bridge.rename.get(text, text) == text
        ]
        if kept:
            why = f"is the broker of the source, and {kept[0]} would go in a circle; rename it"
            table.refuse(("target",), None, why)
    elif group := _shared(here, there, estate):
        why = f"and the source are members of {group}, of which one alone is open at a time"
        table.refuse(("target",), None, why)


def _shared(here: Iterable[Place], there: Iterable[Place], estate: Estate) -> str:
    """The group that both ends belong to, in different members; empty: there is none."""
    if set(here) & set(there):
        return "one list of brokers"
    ours, theirs = ({place[:2] for place in end} for end in (here, there))
    for group in estate.groups.values():
        members = {place[:2] for node in group.nodes.values() for place in places(node.uri)}
        if ours != theirs and ours & members and theirs & members:
            return f"the group {group.name}"
    return ""


def _end(value: object, estate: Estate) -> Secret:
    """A URI of any form, or a group."""
    if isinstance(value, list):
        raise Bad(f"must be one text; {SEVERAL}")
    address = values.text(value)
    if group := estate.groups.get(address):
        members = [node.uri.reveal() for node in group.nodes.values()]
        shown = [node.uri.shown for node in group.nodes.values()]
        if len(members) == 1:
            return Secret(members[0], shown[0])
        return Secret(f"masterslave:({','.join(members)})", f"masterslave:({','.join(shown)})")
    try:
        return Secret(address, str(parse(address)))
    except ConfigurationError as exc:
        if ":" in address:
            listed = f"; {SEVERAL}" if re.search(r",\s*[a-z+]+://", address) else ""
            raise Bad(f"is no address of a broker: {exc}{listed}") from None
        there = ", ".join(estate.groups) or "none"
        raise Bad(
            "is neither an address of a broker, as amqp://host, nor the name of a group (there "
            f"are: {there}){nearest(address, estate.groups)}"
        ) from None


def _ttl(value: object) -> int:
    hops = values.whole(-1, 100)(value)
    if not hops:
        raise Bad("must be 1 or more, or -1 for any number of hops: with 0 nothing is forwarded")
    return hops


def _replies(value: object) -> bool | str:
    if value == "all":
        return str(value)
    try:
        return values.flag(value)
    except Bad as exc:
        raise Bad(f'{exc}, or "all"') from None


def _callable(value: object) -> str:
    text = values.text(value)
    module, colon, function = text.partition(":")
    if not (colon and all(part.isidentifier() for part in (*module.split("."), function))):
        raise Bad('must be a function of a module, as "orders.bridging:clean"')
    return text


def _is_queue(text: str) -> bool:
    return text.startswith("queue:")


def _texts(outer: Table, key: str, example: str) -> dict[str, str]:
    table = outer.table(key, f"must be a table, as {example}")
    return {name: table.take(name, values.text) for name in table}
