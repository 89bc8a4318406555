"""``file:/path``: a list in a file, read again when a second has passed.

Options: ``updateInterval`` (ms, default 1000). A file that cannot be read changes nothing. Whoever
writes it should write another one and rename it: a list that is read half-written is half a list.
"""

from __future__ import annotations

import os
import stat
from urllib.parse import unquote
from urllib.request import url2pathname

from understudy.core.redact import Source
from understudy.discovery.polled import LARGEST, PolledAgent
from understudy.discovery.query import split_options, whole_number

__all__ = ["FileAgent"]

INTERVAL = 1000  # ms; a local read costs some microseconds


class FileAgent(PolledAgent):
    def __init__(self, path: str, interval: float = INTERVAL / 1000) -> None:
        super().__init__(interval)
        self._path = path

    @classmethod
    def of(cls, address: str) -> FileAgent:
        """The agent of a ``file:`` address; raises ConfigurationError."""
        source = Source(address)
        place, _, query = address.partition(":")[2].partition("?")
        if place.startswith("//"):
            host, slash, path = place[2:].partition("/")
            if host not in ("", "localhost"):
                raise source.error("a file: address has no host; write file:/path or file:///path")
            place = slash + path
        if not place.strip("/"):
            raise source.error("a file: address needs a path")
        ours, _ = split_options(query, {"updateInterval"}, source)
        interval = whole_number(ours, "updateInterval", INTERVAL, 10, 86_400_000, source)
        path = url2pathname(place) if os.name == "nt" else unquote(place)
        return cls(path, interval / 1000)

    def __repr__(self) -> str:
        return f"<FileAgent {self._path}>"

    def reader(self) -> _Reading:
        return _Reading(self._path)


class _Reading:
    def __init__(self, path: str) -> None:
        self._path = path

    def read(self) -> bytes:
        with open(self._path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{self._path} is no file")
            return file.read(LARGEST + 1)

    def cut(self) -> None:
        """Nothing to do: a file is there, or it is not."""


def _open(path: str, flags: int) -> int:
    """Without waiting for somebody who writes, which a pipe would."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
