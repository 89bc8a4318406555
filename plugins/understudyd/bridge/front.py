"""The API process as the bridges see it: started again when it ends, never waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from understudy.errors import UnderstudyError
from understudyd.api.client import ApiClient, Gone
from understudyd.api.page import Sheet
from understudyd.api.words import Failed, Order, Settings

__all__ = ["Front", "NoFront"]

ROOM = 32 << 20  # bytes of a status; only what is used costs memory: 50 000 links
PAUSE = 1.0  # s between two starts


class NoFront:
    """Nobody is answered."""

    is_open = False

    def start(self) -> None:
        """Returns when it answers. Raises UnderstudyError."""

    def listen(self) -> None:
        """Hear orders, in the running loop."""

    def publish(self, data: bytes) -> None:
        """What `/status` is made of."""

    def beat(self) -> None:
        """We live; to be told twice a second."""

    def configure(self, settings: Settings) -> None:
        """After a reload."""

    def close(self) -> None: ...


class Front(NoFront):
    is_open = True

    def __init__(self, settings: Settings, obey: Callable[[Order], tuple[int, str]]) -> None:
        """``obey`` returns code and reason for the one who ordered."""
        self._process = ApiClient(settings, Sheet(room=ROOM), "understudyd.bridge.web", "bridge")
        self._obey = obey
        self._log = logging.getLogger("understudyd.bridge")
        self._restart: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._process.start()

    def listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._process.fileno(), self._receive)

    def publish(self, data: bytes) -> None:
        self._process.page.write(data)

    def beat(self) -> None:
        self._process.page.beat()
        if self._restart is None:
            self._process.check()

    def configure(self, settings: Settings) -> None:
        if self._restart is None:
            self._process.configure(settings)

    def close(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
        self._process.close()

    def _receive(self) -> None:
        loop, descriptor = asyncio.get_running_loop(), self._process.fileno()
        for word in self._process.receive():
            if isinstance(word, Order):
                self._process.reply(word, *self._obey(word))
            elif isinstance(word, Failed):
                self._log.error("the API keeps its old settings: %s", word.cause)
            elif isinstance(word, Gone):
                self._log.warning("the API process ended; starting another")
                loop.remove_reader(descriptor)
                self._restart = loop.create_task(self._start_again())

    async def _start_again(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(None, self._process.start)
                break
            except UnderstudyError as error:
                self._log.error("the API process does not start: %s", error)
                await asyncio.sleep(PAUSE)
        self._restart = None
        self.listen()
