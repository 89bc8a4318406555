"""Redis, by default without any persistence."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

from understudy.testing.brokers.probes import answers_redis
from understudy.testing.brokers.server import Command, Server, ServerMissing

__all__ = ["Redis"]


class Redis(Server):
    """A Redis server; up in a tenth of a second.

    ``appendonly`` keeps every write across ``kill()``; without it a killed server comes back
    empty. ``password`` is what clients must authenticate with.
    """

    kind = "redis"
    package = "redis-server"

    def __init__(
        self,
        *,
        name: str | None = None,
        folder: Path | None = None,
        port: int | None = None,
        password: str | None = None,
        appendonly: bool = False,
    ) -> None:
        super().__init__(name=name, folder=folder, port=port)
        self.password = password
        self.appendonly = appendonly

    @property
    def uri(self) -> str:
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{login}{self.host}:{self.port}/0"

    def check_installed(self) -> None:
        if shutil.which("redis-server") is None:
            raise ServerMissing(self.package)

    def _prepare(self) -> Command:
        settings = {
            "bind": self.host,
            "port": str(self.port),
            "dir": _quoted(str(self.folder)),
            "save": '""',
            "appendonly": "yes" if self.appendonly else "no",
            **({"requirepass": _quoted(self.password)} if self.password else {}),
        }
        file = self.folder / "redis.conf"  # a file, so that `ps` does not show the password
        file.write_text("".join(f"{k} {v}\n" for k, v in settings.items()), encoding="utf-8")
        return Command(["redis-server", str(file)])

    def _is_ready(self) -> bool:
        return answers_redis(self.port, self.password)


def _quoted(text: str) -> str:
    """A string as Redis's configuration file writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
