"""The sidecar's, or the bridge's, end of the API process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any, Generic, TypeVar

from understudy.errors import ConfigurationError, UnderstudyError
from understudyd.api.page import Page, Sheet
from understudyd.api.words import LARGEST, Failed, Listening, Order, Settings, Verdict, pack, unpack
from understudyd.clock import now

__all__ = ["ApiClient", "ApiProcess", "Gone"]

S = TypeVar("S", bound=Sheet)
A = TypeVar("A", bound="ApiClient[Any]")

START_TIME = 15.0  # s; it takes 0.2 s, or as long as the place of a dead sidecar's API is taken
STOP_TIME = 2.0  # s
SILENT = 10.0  # s; it signs every second


class Gone:
    """The API process has ended; `ApiProcess.start` starts another."""


class ApiClient(Generic[S]):
    """A context manager. Not started yet; what is published before is answered then.

    ``page`` is where to publish; it stays the same when the process has to be started again.
    """

    def __init__(self, settings: Settings, page: S, module: str, extra: str) -> None:
        """``module`` is the one to run, ``extra`` what has to be installed for it."""
        self.page = page
        self._module, self._extra = module, extra
        self._settings = self._wanted = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self: A) -> A:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Returns when it answers. Raises ConfigurationError where it can't listen, and
        UnderstudyError where it does not even start."""
        if importlib.util.find_spec("h11") is None:
            install = f'pip install "understudy[{self._extra}]"'
            raise ConfigurationError(f"h11 is not installed: {install}")
        self.stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            descriptors = (self.page.descriptor, theirs.fileno())
            argv = [
                sys.executable,
                "-m",
                self._module,
                *map(str, descriptors),
                str(os.getpid()),
            ]
            self._process = subprocess.Popen(
                argv,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # nothing is imported from this folder
            )
            theirs.close()
            self._channel = ours
            ours.settimeout(START_TIME)
            try:
                ours.send(pack(self._settings))
                data = ours.recv(LARGEST)
            except (TimeoutError, ConnectionError):
                data = b""
            if not data:
                raise UnderstudyError("the API process did not start")
            word = unpack(data)
            if isinstance(word, Failed):
                raise ConfigurationError(word.cause)
            ours.setblocking(False)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int | None:
        process = self._process  # it may just be started again, in another thread
        return process.pid if process else None

    def fileno(self) -> int:
        """Readable while there is something to receive. Raises UnderstudyError when stopped."""
        if self._channel is None:
            raise UnderstudyError("the API process is not started")
        return self._channel.fileno()

    def receive(self) -> list[Order | Failed | Listening | Gone]:
        """What happened since the last call; never waits.

        Failed and Listening answer `configure`. After Gone nothing comes until `start`.
        """
        words: list[Order | Failed | Listening | Gone] = []
        while self._channel is not None:
            try:
                data = self._channel.recv(LARGEST)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._hang_up()  # to wait for its end is left to `start`
                words.append(Gone())
                break
            word = unpack(data)
            if isinstance(word, Listening):
                self._settings = self._wanted
            if isinstance(word, (Order, Failed, Listening)):
                words.append(word)
        return words

    def check(self) -> None:
        """Kill a process that is frozen or stuck, whose clients would hang; then comes Gone."""
        if self._process is not None and now() - self.page.signed() > SILENT:
            self._process.kill()

    def reply(self, order: Order, code: int, reason: str = "") -> None:
        """202 accepted, 409 not possible now, 412 wrong state."""
        self._send(Verdict(order.id, code, reason))

    def configure(self, settings: Settings) -> None:
        """After a reload. Told by Listening, or by Failed: then the old ones stay."""
        self._wanted = settings
        self._send(settings)

    def stop(self, patience: float = STOP_TIME) -> None:
        """End the process: it answers 503 to who is connected, and is gone."""
        self._hang_up()
        if self._process is not None:
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self.page.close()

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _send(self, word: Verdict | Settings) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):  # it is dead, which the next receive() tells
                self._channel.send(pack(word))


class ApiProcess(ApiClient[Page]):
    """The sidecar's."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Page(), "understudyd.api", "sidecar")
