"""Asks a broker how many messages wait in the queues that a bridge reads.

Rules
* It has a connection of its own: also while a link waits for its target, or reads nothing, somebody
  wants to know how much is waiting.
* It asks every `PERIOD` seconds, and less often while that fails. Nothing depends on the answers.
* To ask for a queue that is not there costs the connection, so that is done once in `LONGEST`.
* Whatever goes wrong is no reason to stop asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from understudyd.bridge.ends.connection import Connection, Hooks
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stream import within
from understudyd.bridge.status import LinkStatus
from understudyd.bridge.wire.methods import Method, encode_look
from understudyd.bridge.worker import unexpected

__all__ = ["LagWatch"]

PERIOD = 5.0  # s
LONGEST = 60.0  # s; RabbitMQ logs each connection
PATIENCE = 10.0  # s for all answers
NOT_FOUND = 404


class LagWatch:
    """Of one broker that speaks AMQP."""

    def __init__(self, dialer: Dialer, links: Iterable[tuple[str, LinkStatus]]) -> None:
        """``links``: what is told of each queue."""
        self._dialer = dialer
        self._links = list(links)
        self._missing: dict[str, float] = {}  # since when a queue is not there
        self._pause = PERIOD  # after the next failure

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._ask_on()
            except _Missing:
                continue
            except (ConnectionFailed, TimeoutError):
                pass
            except Exception as error:
                unexpected(error)
            self._tell_nothing()
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST)

    async def _ask_on(self) -> None:
        """Until it fails."""
        connection = await self._dialer.dial(Hooks())
        try:
            while True:
                await within(PATIENCE, self._ask(connection))
                self._pause = PERIOD
                await asyncio.sleep(PERIOD)
        finally:
            connection.drop()

    async def _ask(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        for queue, status in self._links:
            if loop.time() < self._missing.get(queue, -LONGEST) + LONGEST:
                continue
            question = encode_look(queue)
            try:
                answer = await connection.call(question, Method.QUEUE_DECLARE_OK)
            except ConnectionFailed as failed:
                if failed.closed is None or failed.closed.code != NOT_FOUND:
                    raise
                self._missing[queue] = loop.time()
                status.waits(None, loop.time())
                raise _Missing from failed
            status.waits(int(answer[1]), loop.time())

    def _tell_nothing(self) -> None:
        now = asyncio.get_running_loop().time()
        for _, status in self._links:
            status.waits(None, now)


class _Missing(Exception):
    """A queue is not there, which cost the connection."""
