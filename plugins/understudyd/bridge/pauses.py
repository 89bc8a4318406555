"""Remembers which bridges are paused, over restarts of their process.

Rule: a pause lasts until somebody ends it. What was paused for maintenance must not run again just
because a machine was started again in between.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from understudy.errors import ConfigurationError

__all__ = ["Pauses"]

FORMAT = 1
LOST = "this lasts until the bridge process ends: [network] has no state folder"


class Pauses:
    """By bridge: who paused it, and when, as words for people."""

    def __init__(self, folder: Path | None) -> None:
        """``None``: nothing is remembered. Raises ConfigurationError for what cannot be read."""
        self._file = folder and folder / "paused.json"
        self._paused = {} if self._file is None else _read(self._file)

    def __contains__(self, bridge: str) -> bool:
        return bridge in self._paused

    def why(self, bridge: str) -> str:
        return self._paused[bridge]

    def add(self, bridge: str, why: str) -> str:
        """Returns why it will not be remembered, where that is so."""
        self._paused[bridge] = why
        return self._write()

    def remove(self, bridge: str) -> str:
        """The same."""
        self._paused.pop(bridge, None)
        return self._write()

    def _write(self) -> str:
        if self._file is None:
            return LOST
        data = json.dumps({"format": FORMAT, "paused": self._paused}, indent=2)
        other = self._file.with_suffix(".new")
        try:
            with other.open("w", encoding="utf-8") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            other.replace(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                other.unlink()
            return f"this is not remembered: {self._file}: {error.strerror}"
        return ""


def _read(file: Path) -> dict[str, str]:
    if not os.access(file.parent, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"network.state = {str(file.parent)!r}: there is no such folder, or it is not ours; "
            "make it and let this user write there"
        )
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}")
        return {str(name): str(why) for name, why in told["paused"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{file}: can't be read, so nobody knows which bridges are paused: {error}; delete it "
            "to start them all"
        ) from None
