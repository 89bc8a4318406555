"""Whether a queue of RabbitMQ is there, asked over STOMP, which has no words for it.

Rules
* The question is a SUBSCRIBE that would make the queue as one of this connection alone. The broker
  refuses that for a queue that is there (RESOURCE_LOCKED) before anything is delivered; one that it
  had to make is gone with the connection. Nothing is consumed, and nothing counts as a delivery.
* Each question takes a connection of its own, since the refusal ends it, and a line in the broker's
  log: it is put while something is sent, and seldom; after a rest before anything is sent.
* Between two looks a queue may go: what is sent to it then is gone with what it held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from understudy.core.endpoint import Endpoint
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stomp_connection import StompConnection, StompHooks
from understudyd.bridge.ends.stream import within

__all__ = ["CHECK_EVERY", "QueueCheck"]

CHECK_EVERY = 10.0  # s
TIMEOUT = 5.0  # s, for one look
AHEAD = 0.8  # of that time: who sends all the time need not wait for a look
_ALONE: Final = {
    "id": "check",
    "ack": "client",
    "durable": "false",
    "auto-delete": "true",
    "exclusive": "true",
}
_IS_THERE: Final = frozenset({405, 406})  # locked; of other properties


class QueueCheck:
    """One queue, looked up again while it is used."""

    def __init__(
        self,
        endpoint: Endpoint,
        destination: str,
        on_missing: Callable[[str], None],
        *,
        every: float | None = None,
    ) -> None:
        """``destination`` is the queue as a SEND names it that would make it; ``on_missing`` is
        told why nothing should be sent to it any more, once."""
        self._endpoint = endpoint
        self._destination = destination
        self._on_missing = on_missing
        self._every = CHECK_EVERY if every is None else every
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._seen_at: float | None = None
        self._then: Callable[[], None] | None = None

    async def look(self) -> None:
        """Raises ConnectionFailed when it is not there, or when nobody can tell."""
        if not await self._is_there():
            raise ConnectionFailed(
                f"{self._endpoint}: there is no queue {self._destination!r}, and over STOMP "
                "RabbitMQ would take messages for it and drop them: make the queue"
            )

    def is_known(self, then: Callable[[], None]) -> bool:
        """Whether it was there of late; False: ``then`` is called when it is known to be.

        To be asked whenever something is to be sent; looks again in a while.
        """
        loop = asyncio.get_running_loop()
        if self._seen_at is not None and loop.time() < self._seen_at + self._every:
            if self._timer is None and self._task is None:
                self._timer = loop.call_later(self._every * AHEAD, self._begin)
            return True
        self._then = then
        if self._task is None:
            self._begin()
        return False

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._look_again())

    async def _look_again(self) -> None:
        try:
            is_there = await self._is_there()
        except ConnectionFailed as failed:
            self._on_missing(f"whether the queue {self._destination!r} is there: {failed}")
            return
        finally:
            self._task = None
        then, self._then = self._then, None
        if not is_there:
            self._on_missing(f"the queue {self._destination!r} was deleted")
        elif then is not None:
            then()

    async def _is_there(self) -> bool:
        asked_at = asyncio.get_running_loop().time()
        connection = await StompConnection.open(self._endpoint, StompHooks(), timeout=TIMEOUT)
        try:
            question = connection.call("SUBSCRIBE", {**_ALONE, "destination": self._destination})
            await within(TIMEOUT, question)
        except TimeoutError:
            raise ConnectionFailed(f"no answer within {TIMEOUT:g} s") from None
        except ConnectionFailed as failed:
            if failed.closed is not None and failed.closed.code in _IS_THERE:
                self._seen_at = asked_at
                return True
            raise
        finally:
            await connection.close()
        return False
