"""A private Erlang world for the nodes of this process: one port mapper, one cookie.

The system's own epmd, on its default port 4369, and the system's cookie are never touched. The
nodes of one process share both, so they can be clustered.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from pathlib import Path
from typing import ClassVar

from understudy.testing.brokers.probes import answers_epmd
from understudy.testing.brokers.server import Command, Server, ServerMissing

__all__ = ["Erlang"]


class _PortMapper(Server):
    kind = "epmd"
    package = "erlang-base"

    @property
    def uri(self) -> str:
        return f"epmd://{self.host}:{self.port}"

    def check_installed(self) -> None:
        if shutil.which("epmd") is None:
            raise ServerMissing(self.package)

    def _prepare(self) -> Command:
        return Command(["epmd", "-address", self.host, "-port", str(self.port)])

    def _is_ready(self) -> bool:
        return answers_epmd(self.port)


class Erlang:
    """The world itself: made with the first node that joins, gone with the last that leaves."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _shared: ClassVar[Erlang | None] = None

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._users = 0
        self._mapper = _PortMapper()
        self._cookie = secrets.token_hex(16).upper()

    @classmethod
    def join(cls) -> Erlang:
        """The world of this process, running; ``leave()`` it once when done."""
        with cls._lock:
            world = cls._shared
            if world is None or world._owner != os.getpid():  # a forked child needs its own
                world = cls._shared = Erlang()
            world._mapper.start()
            world._users += 1
            return world

    def leave(self) -> None:
        """One node fewer; the last one ends the port mapper."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._mapper.close()

    def environment(self, home: Path) -> dict[str, str]:
        """What a node or a tool needs to live in this world; ``home`` gets the cookie file."""
        home.mkdir(exist_ok=True)
        cookie = home / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.touch(0o600)
        cookie.write_text(self._cookie, encoding="ascii")
        cookie.chmod(0o400)  # Erlang refuses a cookie that others may read
        return {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": self._mapper.host,
            "ERL_EPMD_PORT": str(self._mapper.port),
            "ERL_CRASH_DUMP_SECONDS": "0",
        }
