"""What a command prints when a person looks at it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from collections.abc import Mapping, Sequence

__all__ = ["on_terminal"]

PATIENCE = 60.0  # s


def on_terminal(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> str:
    """All that it prints to a terminal of 120 columns; its exit code has to be 0."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        argv,
        env={**environ, "COLUMNS": "120", "TERM": "xterm"},
        stdout=theirs,
        stdin=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
        assert process.wait(PATIENCE) == 0
    return shown.decode()
