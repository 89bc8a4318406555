"""``understudy sidecar``: run the sidecar of one node."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from understudy import ConfigurationError

__all__ = ["sidecar"]


@click.command(short_help="Run a node's broker while the group's lock is ours.")
@click.option(
    "-c",
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The configuration, understudy.toml.",
)
@click.option("--node", required=True, metavar="GROUP/NODE", help="Which node this sidecar is.")
def sidecar(config: Path, node: str) -> int:
    """Run the sidecar of a node: hold the lock or wait for it, run the broker while it is ours.

    SIGTERM hands over and ends, SIGHUP reads the configuration again, SIGUSR2 starts what is
    installed by now in this one's place, while the broker runs on. Exit code 0 after SIGTERM, 2 for
    a configuration that can't be run, 3 when a broker could not be killed.
    """
    if importlib.util.find_spec("h11") is None:  # of the API, a process of its own
        raise ConfigurationError('h11 is not installed: pip install "understudy[sidecar]"')
    from understudyd.sidecar.service import run  # not before the options were understood

    return run(config, node)
