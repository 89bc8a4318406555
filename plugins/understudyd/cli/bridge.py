"""``understudy bridge``: run bridges."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["bridge"]


@click.command(short_help="Move messages from one broker to another.")
@click.option(
    "-c",
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The configuration, understudy.toml.",
)
@click.argument("names", nargs=-1, metavar="[NAME]…")
def bridge(config: Path, names: tuple[str, ...]) -> int:
    """Run the bridges of these names, or all of the file.

    SIGTERM settles what is in flight and ends, a second one ends at once; SIGHUP reads the
    configuration again. Exit code 0 after SIGTERM, 1 after a second, 2 for a configuration that
    can't be run, 3 when a bridge had given up, as the URI of an end says. `understudy network`
    looks at them and pauses them.
    """
    from understudyd.bridge.run import run  # not before the options were understood

    return run(config, names)
