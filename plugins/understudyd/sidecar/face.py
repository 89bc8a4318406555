"""The API process as control sees it: started again when it ends, without ever being waited for.

Rule: one that was started again counts from `came_up` on, in control's own thread. So the thread
that starts it is free again by the time that it may be found to have ended once more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from understudyd.api.client import ApiProcess, Gone
from understudyd.api.page import Snapshot
from understudyd.api.words import Failed, Order
from understudyd.api.words import Settings as ApiSettings
from understudyd.sidecar.settings import Settings
from understudyd.sidecar.worker import Worker

__all__ = ["Face"]

HURRY = 0.3  # s for the API process to end
PAUSE = 1.0  # s between two starts of the API process


class Face:
    def __init__(
        self, settings: Settings, log: logging.Logger, tell_up: Callable[[], None]
    ) -> None:
        """``tell_up`` is called, from another thread, when an API process that had to be started
        again answers: `came_up` is due then."""
        self._wanted = _of(settings)
        self._process = ApiProcess(self._wanted)
        self._log = log
        self._worker = Worker[None]("understudy-api", lambda _: tell_up())
        self._is_up = False

    def start(self) -> None:
        """Returns when it answers. Raises UnderstudyError."""
        self._process.start()
        self._is_up = True

    def came_up(self) -> None:
        """The process that had to be started again answers."""
        self._is_up = True
        self._process.configure(self._wanted)  # there may have been a reload meanwhile

    def fileno(self) -> int | None:
        """Readable when there are orders; None while it is not there."""
        return self._process.fileno() if self._is_up else None

    @property
    def pids(self) -> tuple[int, ...]:
        pid = self._process.pid
        return () if pid is None else (pid,)

    def orders(self) -> list[Order]:
        """What was asked since the last call; never waits."""
        if not self._is_up:
            return []
        orders: list[Order] = []
        for word in self._process.receive():
            if isinstance(word, Order):
                orders.append(word)
            elif isinstance(word, Failed):
                self._log.error(f"the API keeps its old settings: {word.cause}")
            elif isinstance(word, Gone):
                self._is_up = False
                self._log.warning("the API process ended; starting another")
                self._worker.do(self._start_again)
        return orders

    def answer(self, order: Order, code: int, reason: str = "") -> None:
        if self._is_up:
            self._process.reply(order, code, reason)

    def publish(self, snapshot: Snapshot) -> None:
        self._process.page.publish(snapshot)

    def beat(self, deadline: float, token: int) -> None:
        self._process.page.beat(deadline, token)
        if self._is_up:
            self._process.check()

    def configure(self, settings: Settings) -> None:
        self._wanted = _of(settings)
        if self._is_up:
            self._process.configure(self._wanted)

    def pause(self) -> None:
        """End the process, soon: ours is about to be another program. Not while it starts."""
        self._is_up = False
        self._process.stop(HURRY)

    def go_on(self) -> None:
        """It is not, after all."""
        self._worker.do(self._start_again)

    def close(self) -> None:
        self._process.close()

    def _start_again(self) -> None:
        while True:
            try:
                return self._process.start()
            except Exception as error:  # whatever it is, nobody else would try again
                self._log.error(f"the API process does not start: {error}")
                time.sleep(PAUSE)


def _of(settings: Settings) -> ApiSettings:
    return ApiSettings(settings.node.listen, settings.api)
