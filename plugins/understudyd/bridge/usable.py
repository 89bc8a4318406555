"""Whether a folder can be written to, found out before anything is started."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from understudy.errors import ConfigurationError

__all__ = ["check_folder"]

PASSES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a disk may get over: whoever writes there waits for that, and shows it."""
MODE: Final = 0o700  # messages are nobody else's business


def check_folder(path: Path, about: str, *, parents: bool = True) -> None:
    """Make it where it is missing, with its ``parents`` or without, and try to write there.

    Raises ConfigurationError, which begins with ``about``: who needs it.
    """
    try:
        path.mkdir(mode=MODE, parents=parents, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        if error.errno not in PASSES:
            raise ConfigurationError(f"{about}: {_why(path, error)}") from error


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"{_file_in(path)} is a file, and no folder; remove it, or name another folder"
    who = f"this user (number {os.geteuid()})"
    if path.is_dir():
        return f"{path} cannot be written to: {error.strerror}; let {who} write there"
    return f"{path} cannot be made: {error.strerror}; make it, and let {who} write there"


def _file_in(path: Path) -> Path:
    """The part of a path that is in the way."""
    for part in (path, *path.parents):
        with contextlib.suppress(OSError):
            if part.exists() and not part.is_dir():
                return part
    return path
