"""What a bridge of the configuration comes to: one way or two, each with routes and options. No I/O
but the import of a transformer, and a look at the files that TLS needs.

Rules
* A duplex bridge does from the target to the source what it does the other way: the same
  destinations, renames and options, as ActiveMQ's.
* Two opposite ways over one queue would hand its messages to and fro, so they are refused, within a
  bridge and between the bridges of one file. What two files do to each other is kept from
  circulating by the path of the messages.
* No way reads its own parking queue, and nothing else is sent there.
* A broker's name in a path is the one that is configured, else the least of its members' addresses:
  in whatever order they are listed, a list is one broker.
* What is known to have no effect between these two ends is refused; what depends on which broker
  answers (STOMP) is told when it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote

from understudy import FailoverURI, parse
from understudy.errors import ConfigurationError
from understudyd.bridge.addresses import subscription
from understudyd.bridge.dialects import RABBITMQ_AMQP
from understudyd.bridge.effects import check_end, check_headers, check_routes
from understudyd.bridge.lists import check as check_list
from understudyd.bridge.lists import speaks_stomp as is_of_stomp
from understudyd.bridge.names import QUEUE, Pattern
from understudyd.bridge.queues import LONGEST_NAME
from understudyd.bridge.routes import Options, Routes, check_duplex
from understudyd.bridge.settings import LONGEST_IN_FLIGHT, Reading
from understudyd.bridge.transform import Transformer, load
from understudyd.config.bridges import BridgeConfig, places
from understudyd.config.model import Secret

__all__ = ["Way", "speaks_stomp", "ways_of"]

RESERVED = "amq."


@dataclass(frozen=True)
class Way:
    """From one broker to another."""

    bridge: BridgeConfig
    source: Secret
    target: Secret
    routes: Routes
    patterns: tuple[Pattern, ...]
    """What is forwarded; a link for each."""
    reading: Reading
    parking: str
    """The name of the queue for what cannot be forwarded, at either end."""


def ways_of(bridges: Iterable[BridgeConfig], folder: Path) -> list[Way]:
    """All ways of these bridges; ``folder`` is that of the configuration.

    Raises ConfigurationError for what a bridge cannot do.
    """
    ways: list[Way] = []
    for bridge in bridges:
        with _about(bridge):
            transformer = load(bridge.transformer, folder) if bridge.transformer else None
            ways += _both(bridge, transformer)
    for one, other in combinations(ways, 2):
        _check_opposite(one, other)
    return ways


def speaks_stomp(uri: Secret) -> bool:
    """Whether an end is of STOMP; what is not said to be is of AMQP."""
    return is_of_stomp(parse(uri.reveal()))


def _both(bridge: BridgeConfig, transformer: Transformer | None) -> list[Way]:
    ends = [(bridge.source, bridge.target, bridge.source_name, bridge.target_name)]
    if bridge.duplex:
        ends += [(bridge.target, bridge.source, bridge.target_name, bridge.source_name)]
    ways = [_way(bridge, transformer, *end) for end in ends]
    if bridge.duplex or places(bridge.source) == places(bridge.target):
        check_duplex(ways[0].routes, ways[-1].routes)
    return ways


def _way(
    bridge: BridgeConfig,
    transformer: Transformer | None,
    source: Secret,
    target: Secret,
    source_name: str | None,
    target_name: str | None,
) -> Way:
    options = Options(
        statically_included=bridge.statically_included,
        dynamically_included=bridge.statically_included,  # so that nothing else is permitted
        excluded=bridge.excluded,
        rename=bridge.rename,
        headers_set=bridge.headers_set,
        headers_remove=bridge.headers_remove,
        network_ttl=bridge.network_ttl,
        body=bridge.body,
        transformer=transformer,
        delivery_limit=bridge.delivery_limit,
    )
    here = source_name or _name_of(parse(source.reveal()), "source_name")
    there = target_name or _name_of(parse(target.reveal()), "target_name")
    if here == there and places(source) != places(target):
        raise ConfigurationError(
            f"source and target are both called {here!r}, so what was at one of them would count "
            "as having been at the other; give them names of their own in source_name and "
            "target_name"
        )
    routes = Routes(options, here, there)
    way = Way(
        bridge,
        source,
        target,
        routes,
        tuple(map(Pattern.parse, bridge.statically_included)),
        Reading(bridge.selector, bridge.durable_expires, bridge.lowers_priority, bridge.priority),
        _parking_of(bridge, routes),
    )
    _check(way)
    return way


def _check_source(way: Way) -> None:
    """What only a target heeds, or nobody."""
    why = {"blockedTimeout": "at a source, which a bridge only reads"}
    if way.bridge.spool is not None:
        limits = ("reconnect", "maxReconnectAttempts", "startupMaxReconnectAttempts")
        why |= dict.fromkeys(limits, "at the source of a spool, which is tried for ever")
    origins = parse(way.source.reveal()).origins
    for option, where in why.items():
        if origins.get(option, "default") != "default":
            raise ConfigurationError(f"{way.source}: {option} has no effect {where}: leave it out")


def _check(way: Way) -> None:
    """What cannot be, or has no effect, between these ends."""
    for end in (way.source, way.target):
        check_list(parse(end.reveal()))
        check_end(end)
    if not way.bridge.duplex:
        _check_source(way)
    check_routes(way.routes)
    check_headers(way.bridge.headers_set, is_stomp=speaks_stomp(way.target))
    _check_length("the bridge's name, which its queues are named after,", way.bridge.name, 200)
    _check_length("parking", way.parking)
    for pattern in way.patterns:
        if pattern.is_exact and not way.routes.permits(pattern.destination):
            raise ConfigurationError(f"{pattern.text!r} is included, and excluded as well")
    if not speaks_stomp(way.source):
        if way.bridge.hold_time > LONGEST_IN_FLIGHT and way.bridge.spool is None:
            raise ConfigurationError(
                f"hold_time = {way.bridge.hold_time:g}s: what comes from RabbitMQ is given back "
                f"after {LONGEST_IN_FLIGHT:g} s, before RabbitMQ loses its patience; valid is up "
                "to that"
            )
        for pattern in way.patterns:
            _check_length(pattern.text[:40], subscription(pattern, RABBITMQ_AMQP).name)
            _check_length(pattern.text[:40], pattern.exchange)
        if selector := way.reading.selector:
            raise ConfigurationError(
                f"selector = {selector!r}: RabbitMQ has no selectors, and a message that is read "
                "there is taken from its queue; bind a queue of its own to what is wanted, or use "
                "a transformer that drops the rest"
            )
    if not speaks_stomp(way.target):
        way.routes.check_target(RABBITMQ_AMQP)
        if way.bridge.dedup == "target" and not way.bridge.duplex:
            raise ConfigurationError(
                "dedup = 'target': RabbitMQ does not know messages again, Artemis does; take "
                "'journal', and let consumers know them by their ids where that is not enough"
            )
        if way.bridge.body != "auto" and not way.bridge.duplex:
            raise ConfigurationError(
                f"body = {way.bridge.body!r} has no effect: over AMQP text and bytes are the same; "
                "it is for targets that are ActiveMQ or Artemis"
            )


def _check_length(what: str, name: str, most: int = LONGEST_NAME) -> None:
    if (size := len(name.encode())) > most:
        raise ConfigurationError(f"{what} has {size} bytes; valid is {most} at most")


def _check_opposite(one: Way, other: Way) -> None:
    here, there = places(one.source), places(one.target)
    is_opposite = here & places(other.target) and there & places(other.source)
    if not is_opposite or one.bridge is other.bridge:
        return
    try:
        check_duplex(one.routes, other.routes)
    except ConfigurationError as error:
        names = f"bridges.{one.bridge.name} and bridges.{other.bridge.name}"
        raise ConfigurationError(f"{_where(one.bridge)}{names} are opposite: {error}") from error


def _parking_of(bridge: BridgeConfig, routes: Routes) -> str:
    given = bridge.parking or f"queue://understudy.parking.{bridge.name}"
    pattern = Pattern.parse(given)
    said = f"parking = {given!r}"
    if pattern.kind != QUEUE or not pattern.is_exact:
        raise ConfigurationError(f"{said}: it is one queue, as queue://orders.parked")
    queue = pattern.destination
    if queue.name.startswith(RESERVED) and not (
        speaks_stomp(bridge.source) and speaks_stomp(bridge.target)
    ):
        raise ConfigurationError(
            f"{said}: names that begin with {RESERVED} are RabbitMQ's own, of which it lets nobody "
            "make a queue; name another"
        )
    if routes.permits(queue) and any(one.matches(queue) for one in routes.static):
        raise ConfigurationError(f"{said} is one of the queues that are forwarded; name another")
    if any(right.is_exact and right.destination == queue for _, right in routes.renames):
        raise ConfigurationError(f"{said} is the target of a rename as well; name another")
    return queue.name


def _name_of(uri: FailoverURI, option: str) -> str:
    """What a broker is called in paths: host, port and vhost of one member, the least."""
    names = []
    for endpoint in uri.endpoints:
        _, host, port, _, _, path = endpoint.identity[:6]
        names.append(f"{host}:{port}/{unquote(str(path).removeprefix('/'))}")
    if not names:
        raise ConfigurationError(f"{uri} lists no broker to name it by: write {option}")
    return min(names)


@contextmanager
def _about(bridge: BridgeConfig) -> Iterator[None]:
    """Says of a ConfigurationError which bridge it is about."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{_where(bridge)}bridges.{bridge.name}: {error}") from error


def _where(bridge: BridgeConfig) -> str:
    return f"{bridge.file}: " if bridge.file else ""
