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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from understudy import __version__, parse
from understudy.core.option_reader import nearest
from understudy.errors import ConfigurationError
from understudyd.bridge.dialects import RABBITMQ_AMQP
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.names import Pattern
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.shell import LinkRunner
from understudyd.bridge.wire.tables import Table
from understudyd.config.bridges import BridgeConfig, load_bridges

__all__ = ["links_of", "run"]

FORCED = 1  # exit code after a second signal
GC_THRESHOLD = 50_000  # objects; a batch makes thousands that are gone with it


def run(file: Path, names: Iterable[str]) -> int:
    """The exit code. Raises ConfigurationError before anything was started."""
    bridges = _chosen(file, load_bridges(file, os.environ), tuple(names))
    _log()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    return asyncio.run(_serve(bridges))


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


async def _serve(bridges: list[BridgeConfig]) -> int:
    runners = [runner for bridge in bridges for runner in links_of(bridge)]
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


def links_of(bridge: BridgeConfig, rng: random.Random | None = None) -> list[LinkRunner]:
    """The links of a bridge, not started yet; raises ConfigurationError."""
    rng = rng or random.Random()
    about: Table = {
        "product": "Understudy",
        "version": __version__,
        "connection_name": f"understudy.bridge.{bridge.name}",
    }
    settings = LinkSettings(prefetch=bridge.prefetch_size, hold_time=bridge.hold_time)
    source, target = bridge.source.reveal(), bridge.target.reveal()
    with _about(bridge):
        routes = Routes(
            Options(
                statically_included=bridge.statically_included,
                dynamically_included=bridge.statically_included,
                excluded=bridge.excluded,
                rename=bridge.rename,
                headers_set=bridge.headers_set,
                headers_remove=bridge.headers_remove,
            ),
            _name_of(source),
            _name_of(target),
        )
        routes.check_target(RABBITMQ_AMQP)
        return [
            LinkRunner(
                bridge.name,
                Dialer(source, about, rng),
                Pattern.parse(text),
                Dialer(target, about, rng),
                routes,
                settings=settings,
                rng=rng,
            )
            for text in bridge.statically_included
        ]


@contextmanager
def _about(bridge: BridgeConfig) -> Iterator[None]:
    """Says of a ConfigurationError which bridge it is about."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"bridges.{bridge.name}: {error}") from error


def _name_of(uri: str) -> str:
    """What the source is called in paths: its first member's host, port and vhost."""
    first = parse(uri).endpoints[0]
    _, host, port = first.identity[:3]
    return f"{host}:{port}/{unquote(first.path.removeprefix('/'))}"


def _log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    log = logging.getLogger("understudyd.bridge")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
