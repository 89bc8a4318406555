"""The ``understudy`` command. Click and rich come with the extra ``cli``."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The console script."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(
            f'understudy: {error.name} is not installed: pip install "understudy[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    from understudyd.cli.app import run

    sys.exit(run(sys.argv[1:]))
