"""The running command `understudy bridge`: one event loop, a link for each destination.

Exit codes: 0 after SIGTERM or SIGINT, when what was in flight was settled or given back; 2 for a
configuration that can't be run. A second signal ends at once; nothing is lost then either, but what
was in flight is delivered again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from understudy import __version__
from understudy.core.option_reader import nearest
from understudy.errors import ConfigurationError
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.pace import Pace
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.shell import LinkRunner
from understudyd.bridge.ways import Way, ways_of
from understudyd.bridge.wire.tables import Table
from understudyd.config.bridges import BridgeConfig, load_bridges

__all__ = ["links_of", "run"]

FORCED = 1  # exit code after a second signal
GC_THRESHOLD = 50_000  # objects; a batch makes thousands that are gone with it


def run(file: Path, names: Iterable[str]) -> int:
    """The exit code. Raises ConfigurationError before anything was started."""
    bridges = _chosen(file, load_bridges(file, os.environ), tuple(names))
    ways = ways_of(bridges, file.absolute().parent)
    _log()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    return asyncio.run(_serve(ways))


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


async def _serve(ways: list[Way]) -> int:
    runners = [runner for way in ways for runner in links_of(way)]
    loop = asyncio.get_running_loop()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            os._exit(FORCED)
        stopping = True
        for runner in runners:
            runner.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    for runner in runners:
        runner.start()
    await asyncio.gather(*(runner.finished for runner in runners))
    return 0


def links_of(way: Way, rng: random.Random | None = None) -> list[LinkRunner]:
    """The links of one way of a bridge, not started yet; raises ConfigurationError."""
    rng = rng or random.Random()
    bridge = way.bridge
    about: Table = {
        "product": "Understudy",
        "version": __version__,
        "connection_name": f"understudy.bridge.{bridge.name}",
    }
    pace = None if bridge.rate is None else Pace(bridge.rate)
    settings = LinkSettings(
        prefetch=min(bridge.prefetch_size, pace.window) if pace else bridge.prefetch_size,
        hold_time=bridge.hold_time,
        reading=way.reading,
        parking=way.parking,
    )
    return [
        LinkRunner(
            bridge.name,
            Dialer(way.source.reveal(), about, rng),
            pattern,
            Dialer(way.target.reveal(), about, rng),
            way.routes,
            settings=settings,
            rng=rng,
            pace=pace,
        )
        for pattern in way.patterns
    ]


def _log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    log = logging.getLogger("understudyd.bridge")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
