"""What all servers have in common: a folder, ports, a life that can be ended in many ways."""

from __future__ import annotations

import abc
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

from understudy.errors import UnderstudyError
from understudy.testing.brokers.leash import Leash
from understudy.testing.brokers.ports import Port

__all__ = ["Command", "Server", "ServerMissing", "StartFailed", "start_all"]

_POLL = 0.05
PATIENCE = 180.0  # s until it answers; a RabbitMQ takes 8, and 60 on a machine under load
_Self = TypeVar("_Self", bound="Server")


class ServerMissing(UnderstudyError):
    """A server is not installed; the text is the command that installs it."""

    def __init__(self, package: str) -> None:
        self.package = package
        super().__init__(f"apt-get install {package}")


class StartFailed(UnderstudyError):
    """A server did not come up; the text ends with the last lines of its log."""


@dataclass(frozen=True)
class Command:
    """How a server is run: its program, and what is added to a minimal environment."""

    argv: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)


class Server(abc.ABC):
    """One private server on 127.0.0.1, started from the system's packages.

    Nothing is started by the constructor. ``start()``, ``kill()``, ``freeze()`` and so on may be
    called from any thread and in any order; data stays in ``folder`` until ``close()``, which
    removes the folder unless the caller named it. Whatever way this Python process ends, the
    server ends with it and so does its temporary folder. Use it as a context manager: entering
    starts it, leaving closes it.
    """

    kind: ClassVar[str]
    """What the server is called in commands and default names."""
    package: ClassVar[str]
    """The Debian package that holds it."""

    def __init__(
        self, *, name: str | None = None, folder: Path | None = None, port: int | None = None
    ) -> None:
        self.name = name or self.kind
        self.host = "127.0.0.1"
        self._ports = [Port(port)]
        self.port = self._ports[0].number
        self._temporary = folder is None
        self.folder = folder or _unused_folder(self.kind)
        self._leash: Leash | None = None
        self._boot_log = 0  # where in the log file the present run begins

    @property
    @abc.abstractmethod
    def uri(self) -> str:
        """The address a client connects to, credentials included."""

    @abc.abstractmethod
    def check_installed(self) -> None:
        """Raise ServerMissing if the server is not there; no side effects."""

    @abc.abstractmethod
    def _prepare(self) -> Command:
        """Write the configuration and say what to run."""

    @abc.abstractmethod
    def _is_ready(self) -> bool:
        """Ask every protocol of the server for a sign of life."""

    @property
    def pid(self) -> int | None:
        """The main process, or None when the server is down."""
        return self._leash.pid if self._leash else None

    @property
    def is_running(self) -> bool:
        """True while the main process exists, frozen or not."""
        return self.pid is not None

    @property
    def is_frozen(self) -> bool:
        """True between ``freeze()`` and ``thaw()``."""
        return self._leash is not None and self._leash.is_frozen

    @property
    def log_file(self) -> Path:
        """Everything the server printed, over all its runs."""
        return self.folder / "server.log"

    def start(self: _Self, timeout: float = PATIENCE) -> _Self:
        """Start the server on its data; return when it answers.

        One that runs already is only thawed and waited for. Raises ServerMissing or StartFailed;
        after StartFailed the server is down.
        """
        deadline = time.monotonic() + timeout
        command = self._prepare_in_folder()
        leash = self._held()
        if leash.pid is not None:
            leash.thaw()
        else:
            self._boot_log = self._log_size()
            env = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **command.env}
            leash.spawn(command.argv, env=env, cwd=self.folder, log=self.log_file)
        while not self._is_ready():
            if leash.pid is None:
                self._fail("ended while it was starting")
            if time.monotonic() > deadline:
                self._fail(f"did not answer within {timeout:g} s")
            time.sleep(_POLL)
        return self

    def kill(self) -> None:
        """SIGKILL all of the server's processes; return when they are gone. Data stays."""
        if self._leash:
            self._leash.kill()

    def freeze(self) -> None:
        """SIGSTOP all of the server's processes; return when nothing of it can answer."""
        if self._leash:
            self._leash.freeze()

    def thaw(self) -> None:
        """SIGCONT: the server goes on where it was."""
        if self._leash:
            self._leash.thaw()

    def stop(self, timeout: float = 15.0) -> None:
        """Ask the server to end, wait for it, then SIGKILL what is left. Data stays."""
        if self._leash is None:
            return
        deadline = time.monotonic() + timeout
        self._leash.thaw()
        self._leash.signal(signal.SIGTERM)
        while self._leash.pid is not None and time.monotonic() < deadline:
            time.sleep(_POLL)
        self._leash.kill()

    def restart(self: _Self, timeout: float = PATIENCE) -> _Self:
        """Crash the server and start it again on its data."""
        self.kill()
        return self.start(timeout)

    def close(self) -> None:
        """Kill the server for good; remove the folder if it is ours. Idempotent."""
        leash, self._leash = self._leash, None
        if leash:
            leash.close()

    def log_tail(self, lines: int = 30) -> str:
        """The last lines the server printed in its present run."""
        return "\n".join(self._boot_output().splitlines()[-lines:])

    def __enter__(self: _Self) -> _Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        pid = self.pid
        state = "down" if pid is None else f"{'frozen' if self.is_frozen else 'up'}, process {pid}"
        return f"<{type(self).__name__} {self.name} {self.host}:{self.port} {state}>"

    def _claim_port(self, number: int | None = None) -> int:
        """One more port, kept as long as this object."""
        self._ports.append(Port(number))
        return self._ports[-1].number

    def _held(self) -> Leash:
        if self._leash is None:
            self._leash = Leash(self.folder if self._temporary else None)
        return self._leash

    def _prepare_in_folder(self) -> Command:
        self.check_installed()
        if self._temporary:
            self._held()  # the watcher makes the folder, so that no crash can leave one behind
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
        return self._prepare()

    def _log_size(self) -> int:
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def _boot_output(self) -> str:
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as file:
            file.seek(self._boot_log)
            return file.read().decode(errors="replace")

    def _fail(self, why: str) -> None:
        tail = self.log_tail()
        self.kill()
        raise StartFailed(f"{self.name} ({self.kind}) {why}; its log ends:\n{tail}")


def start_all(*servers: Server, timeout: float = PATIENCE) -> None:
    """Start servers side by side; those that are frozen go on, those that are up are asked only.

    If one fails, its error is raised once all have settled. When the wait is interrupted, by
    Ctrl-C say, all of them are killed.
    """
    with ThreadPoolExecutor(max_workers=len(servers) or 1) as pool:
        starts = [pool.submit(server.start, timeout) for server in servers]
        try:
            wait(starts)
        except BaseException:
            for server in servers:
                server.kill()
            raise
    for start in starts:
        start.result()


def _unused_folder(kind: str) -> Path:
    return Path(tempfile.gettempdir(), f"understudy-{kind}-{os.getpid()}-{secrets.token_hex(4)}")
