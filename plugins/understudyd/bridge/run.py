"""The running command `understudy bridge`: one event loop, a link for each destination.

Exit codes: 0 after SIGTERM or SIGINT, when what was in flight was settled or given back; 2 for a
configuration that can't be run; 3 when a bridge had given up an end. A second signal ends at once,
with 1; nothing is lost then either, but what was in flight is delivered again. SIGHUP reads the
configuration again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path

from understudy import __version__, parse
from understudy.core.option_reader import nearest
from understudy.errors import ConfigurationError
from understudyd.api.words import Settings as ApiSettings
from understudyd.bridge.dedup.chosen import check_dedup, filter_of, hop_of
from understudyd.bridge.effects import one_broker_hint
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.front import Front
from understudyd.bridge.joints import Span, dialer_of
from understudyd.bridge.lag import LagWatch
from understudyd.bridge.lists import backoff_of, blocked_time_of, limits_of
from understudyd.bridge.names import Pattern
from understudyd.bridge.pace import Pace
from understudyd.bridge.pauses import Pauses
from understudyd.bridge.queues import queue_read
from understudyd.bridge.replies_shell import replies_of
from understudyd.bridge.service import Bridge, Service
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.shell import LinkRunner
from understudyd.bridge.spool.folders import check_spool, left_over
from understudyd.bridge.spool.words import Spooling
from understudyd.bridge.ways import Way, ways_of
from understudyd.bridge.wire.tables import Table
from understudyd.config.bridges import BridgeConfig, load_bridges
from understudyd.config.here import check_api
from understudyd.config.model import Estate
from understudyd.config.network import NetworkConfig, load_network
from understudyd.logs import log_to_stderr

__all__ = ["links_of", "run"]

FORCED = 1  # exit code after a second signal
GAVE_UP = 3  # exit code when a bridge had given up, as the URI of an end says
ENDING = (signal.SIGTERM, signal.SIGINT)
GC_THRESHOLD = 50_000  # objects; a batch makes thousands that are gone with it

_log = logging.getLogger("understudyd.bridge")


def run(file: Path, names: Iterable[str]) -> int:
    """The exit code. Raises ConfigurationError before anything was started."""
    file, names = file.absolute(), tuple(names)
    network = _network_of(file)
    ways = _read(file, names, network)
    pauses = Pauses(network.state)
    log_to_stderr("understudyd.bridge", "")
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    _tell_left_over(ways)
    return asyncio.run(_serve(ways, network, pauses, lambda: _reread(file, names, network)))


def _network_of(file: Path) -> NetworkConfig:
    network = load_network(file, os.environ)
    if network.listen is not None:
        check_api(Estate(file, {}, network.shared))
    return network


def _read(file: Path, names: tuple[str, ...], network: NetworkConfig) -> list[Way]:
    bridges = _chosen(file, load_bridges(file, os.environ), names)
    ways = ways_of(bridges, file.parent)
    for bridge in bridges:
        check_dedup(bridge, network)
    for way in ways:
        if (spooling := _spooling(way)) is not None:
            name = way.bridge.name
            about = f"{file}: bridges.{name}: spool = {str(spooling.folder)!r}"
            check_spool(spooling, name, way.patterns, about)
    return ways


def _reread(
    file: Path, names: tuple[str, ...], network: NetworkConfig
) -> tuple[list[Way], NetworkConfig]:
    """The same of a file that may have changed; for a thread, since a disk may hang."""
    ways = _read(file, names, network)
    _tell_left_over(ways)
    return ways, _network_of(file)


def _chosen(
    file: Path, bridges: Mapping[str, BridgeConfig], names: tuple[str, ...]
) -> list[BridgeConfig]:
    for name in names:
        if name not in bridges:
            there = ", ".join(bridges) or "none"
            near = nearest(name, bridges)
            raise ConfigurationError(f"{file}: bridges has no {name!r} (there are: {there}){near}")
    if not bridges:
        raise ConfigurationError(f"{file}: has no bridge: write [bridges.NAME]")
    return [bridges[name] for name in names or bridges]


async def _serve(
    ways: list[Way],
    network: NetworkConfig,
    pauses: Pauses,
    reread: Callable[[], tuple[list[Way], NetworkConfig]],
) -> int:
    service = Service(_bridges(ways, network.state), pauses)
    if network.listen is not None:
        settings = ApiSettings(network.listen, network.shared)
        service.front = Front(settings, service.obey)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if service.is_stopping:
            os._exit(FORCED)
        service.stop()

    async def again() -> list[Bridge]:
        ways, said = await loop.run_in_executor(None, reread)
        bridges = _bridges(ways, network.state)
        if (said.listen is None) != (network.listen is None):
            change = "removed" if said.listen is None else "added"
            _log.warning("[network] api was %s: that takes a restart of this process", change)
        elif said.listen is not None:
            service.front.configure(ApiSettings(said.listen, said.shared))
        return bridges

    for number in ENDING:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: service.reload(again))
    try:
        service.front.start()
    except BaseException:
        for number in ENDING:  # came meanwhile; there is nothing to stop
            loop.remove_signal_handler(number)
        service.front.close()
        raise
    try:
        await service.run()
    finally:
        service.front.close()
    return GAVE_UP if service.has_given_up else 0


def _bridges(ways: Iterable[Way], state: Path | None = None) -> list[Bridge]:
    """One for each name, with the links of all its ways."""
    made = []
    for bridge, group in groupby(ways, key=lambda way: way.bridge):
        links, watches = [], []
        for number, way in enumerate(group):
            some = links_of(way, state=state)
            if number:
                for link in some:
                    link.status.destination += " (back)"
            watches += _watches(way, some)
            links += some
        made.append(Bridge(bridge, links, watches))
    return made


def _watches(way: Way, links: list[LinkRunner]) -> list[LagWatch]:
    """Of the very brokers that the links read: of a list, each may read another."""
    found = [
        (link.source_dialer.beside("lag"), (queue_read(way.bridge.name, pattern), link.status))
        for pattern, link in zip(way.patterns, links, strict=True)
        if isinstance(link.source_dialer, Dialer)
    ]
    if found and found[0][0].is_one:
        return [LagWatch(found[0][0], [asked for _, asked in found])]
    return [LagWatch(dialer, [asked]) for dialer, asked in found]


def links_of(
    way: Way, rng: random.Random | None = None, state: Path | None = None
) -> list[LinkRunner]:
    """The links of one way of a bridge, not started yet; raises ConfigurationError.

    ``state`` is the folder in which something may be remembered.
    """
    rng = rng or random.Random()
    bridge = way.bridge
    about: Table = {
        "product": "Understudy",
        "version": __version__,
        "connection_name": f"understudy.bridge.{bridge.name}",
    }
    pace = None if bridge.rate is None else Pace(bridge.rate)
    settings = _settings_of(way, pace)

    def link_of(pattern: Pattern) -> LinkRunner:
        here = dialer_of(way.source.reveal(), about, rng)
        there = dialer_of(way.target.reveal(), about, rng)
        span = Span(bridge.name, here, pattern, there, way.routes, settings)
        return LinkRunner(
            span,
            rng=rng,
            pace=pace,
            dedup=filter_of(bridge, way.routes, pattern, state),
            replies=replies_of(bridge, span, rng),
        )

    return [link_of(pattern) for pattern in way.patterns]


def _settings_of(way: Way, pace: Pace | None) -> LinkSettings:
    """Of all links of a way, which share the pace."""
    bridge = way.bridge
    source, target = parse(way.source.reveal()), parse(way.target.reveal())
    return LinkSettings(
        prefetch=min(bridge.prefetch_size, pace.window) if pace else bridge.prefetch_size,
        hold_time=bridge.hold_time,
        source_backoff=backoff_of(source),
        target_backoff=backoff_of(target),
        source_limits=limits_of(source),
        target_limits=limits_of(target),
        blocked_time=blocked_time_of(target),
        reading=way.reading,
        parking=way.parking,
        spool=_spooling(way),
        hop=hop_of(bridge, way.routes),
        shards=bridge.shards,
        shard_by=bridge.shard_by,
        hint=one_broker_hint(way.source, way.target, way.routes),
    )


def _spooling(way: Way) -> Spooling | None:
    """Where the messages of a way lie."""
    bridge = way.bridge
    if bridge.spool is None:
        return None
    return Spooling(bridge.spool, bridge.spool_size, is_back=way.source is bridge.target)


def _tell_left_over(ways: Iterable[Way]) -> None:
    """What nobody reads any more where the messages of these lie."""
    why = "holds messages of a destination that is not included any more; include it again"
    for way in ways:
        name, spooling = way.bridge.name, _spooling(way)
        for folder in left_over(spooling, name, way.patterns) if spooling else ():
            _log.error("bridge %s: the spool %s %s", name, folder, why)
