"""Waiting on an event loop for something that any event may bring about."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from understudy.pika.wire import Wire

__all__ = ["AsyncWaiting"]


class AsyncWaiting:
    """Conditions, asked whenever something has `changed`."""

    def __init__(self) -> None:
        """To be made within the event loop that it belongs to."""
        self.loop = asyncio.get_running_loop()
        self._waits: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def until(self, is_over: Callable[[], bool], moment: float = math.inf) -> bool:
        """Wait until ``is_over``, which is asked whenever something has changed.

        False at the moment (monotonic).
        """
        while not is_over():
            left = None if moment == math.inf else moment - time.monotonic()
            if left is not None and left <= 0:
                return False
            wait = is_over, self.loop.create_future()
            self._waits.append(wait)
            try:
                await asyncio.wait((wait[1],), timeout=left)
            finally:
                self._waits.remove(wait)
        return True

    async def answered(
        self, wire: Wire, is_over: Callable[[], bool], moment: float = math.inf
    ) -> bool:
        """Wait for something that comes on this wire; False at the moment. Raises LinkLost."""
        arrived = await self.until(lambda: wire.lost is not None or is_over(), moment)
        if arrived and not is_over():
            assert wire.lost is not None
            raise wire.lost
        return arrived

    def changed(self) -> None:
        """Let those whose wait is over go on."""
        for is_over, future in self._waits:
            if not future.done() and is_over():
                future.set_result(None)

    def when(self, is_over: Callable[[], bool], do: Callable[[], None]) -> None:
        """Do something soon after ``is_over``, with nobody waiting for it; it must not raise."""
        wait = is_over, self.loop.create_future()
        self._waits.append(wait)

        def done(_: asyncio.Future[None]) -> None:
            self._waits.remove(wait)
            do()

        wait[1].add_done_callback(done)
        self.changed()
