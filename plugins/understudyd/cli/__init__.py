"""The ``understudy`` command. Click and rich come with the extra ``cli``, which others include."""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

__all__ = ["main"]

EXTRAS = {"bridge": "bridge", "network": "bridge", "sidecar": "sidecar"}
"""Of commands that need more than the extra ``cli``."""


def main() -> NoReturn:
    """The console script."""
    try:
        import click  # noqa: F401

        if importlib.util.find_spec("rich") is None:  # not imported: a sidecar prints no table
            raise ModuleNotFoundError(name="rich")
    except ImportError as error:
        extra = EXTRAS.get(next(iter(sys.argv[1:]), ""), "cli")
        print(
            f'understudy: {error.name} is not installed: pip install "understudy[{extra}]"',
            file=sys.stderr,
        )
        sys.exit(2)
    from understudyd.cli.app import run

    sys.exit(run(sys.argv[1:]))
