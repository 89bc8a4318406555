"""What a bridge is to do about messages that come again, as configured.

Rule: one journal for each link, named after bridge, brokers and destination: another target, or
another source, knows nothing of it.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from understudy.errors import ConfigurationError
from understudyd.bridge.dedup.filter import Filter, NoFilter
from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.names import Pattern
from understudyd.bridge.routes import Routes
from understudyd.bridge.usable import check_folder
from understudyd.config.bridges import BridgeConfig
from understudyd.config.network import NetworkConfig

__all__ = ["check_dedup", "filter_of", "hop_of"]

FOLDER = "dedup"


def check_dedup(bridge: BridgeConfig, network: NetworkConfig) -> None:
    """Make a place for journals; raises ConfigurationError where there can be none."""
    if bridge.dedup == "off":
        return
    about = f"{network.file}: bridges.{bridge.name}: dedup = {bridge.dedup!r}"
    if network.state is None:
        raise ConfigurationError(
            f"{about}: needs a folder to remember in, of which [network] has none; write state = "
            '"/var/lib/understudy" there'
        )
    check_folder(network.state / FOLDER, about, parents=False)


def filter_of(
    bridge: BridgeConfig, routes: Routes, pattern: Pattern, state: Path | None
) -> NoFilter:
    """Of one link; ``state`` is the folder of the process."""
    if bridge.dedup == "off" or state is None:
        return NoFilter()
    which = blake2b(f"{routes.here}\n{routes.there}\n{pattern}".encode(), digest_size=8)
    name = f"{quote(bridge.name, safe='')[:100]}-{which.hexdigest()}.db"
    about = f"bridge {bridge.name} {pattern}"
    return Filter(Journal(state / FOLDER / name, about), about if bridge.dedup == "target" else "")


def hop_of(bridge: BridgeConfig, routes: Routes) -> str:
    """What stands before the ids of messages on their way by this bridge; empty: they get none."""
    return f"{bridge.name}:{routes.here}" if bridge.dedup == "target" else ""
