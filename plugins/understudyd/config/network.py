"""The part ``[network]`` of `understudy.toml`: of the process that runs bridges, as a whole.

Rules
* One process answers at one place. Who runs bridges of one file in several processes gives each its
  own by a variable: `UNDERSTUDY_NETWORK__API`.
* Token, TLS and who may order are those of ``[api]``, as for the sidecars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from understudyd.config import values
from understudyd.config.load import load, read_toml
from understudyd.config.model import Api, Place
from understudyd.config.table import Source, Table

__all__ = ["NetworkConfig", "load_network"]

SHARED = ("token", "token_file", "tls_cert", "tls_key", "tls_ca", "allow")


@dataclass(frozen=True)
class NetworkConfig:
    file: Path
    shared: Api
    """What it has in common with the sidecars' APIs."""
    api: Place | None = None
    """Where others reach the bridge process; None: it answers nobody."""
    listen: Place | None = None
    """What it binds; ``api`` where it is not said."""
    state: Path | None = None
    """The folder that remembers what is paused."""


def load_network(path: str | Path, environ: Mapping[str, str]) -> NetworkConfig:
    """Raises ConfigurationError, also for what is wrong in ``[api]`` or in a group.

    ``state`` is what systemd's ``StateDirectory=`` names where the file says nothing.
    """
    file = Path(path).absolute()
    estate = load(file, environ)
    source = Source(file, environ)
    table = Table(source, (), read_toml(file)).table("network")
    for name in table:
        if name in SHARED:
            table.refuse((name,), None, "belongs to [api], which all that answer have in common")
    api = table.take("api", values.place, None)
    listen = table.take("listen", values.place, api)
    state = table.take("state", table.file_path, None)
    if listen is not None and api is None:
        table.missing("api")
    table.finish()
    source.check_variables("network")
    if state is None and (given := environ.get("STATE_DIRECTORY")):
        state = Path(given.partition(":")[0])
    return NetworkConfig(file, estate.api, api, listen, state)
