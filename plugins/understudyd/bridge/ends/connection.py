"""One AMQP connection over asyncio: the shell around `wire.amqp.Session`.

Rules, beside those of `stream`
* What one read brought is one list of events, and what is written in answer to it is one write.
* ``open()`` returns when connection and channel are open, or raises `ConnectionFailed`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from understudy.core.endpoint import Endpoint
from understudyd.bridge.ends.stream import Stream
from understudyd.bridge.wire.amqp import Closed, Login, Opened, Session, SessionEvent
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import HEARTBEAT
from understudyd.bridge.wire.reader import Event, Told
from understudyd.bridge.wire.tables import Table

__all__ = ["SCHEMES", "Connection", "Hooks"]

HEARTBEAT_S = 10
GOODBYE_TIMEOUT = 1.0  # s that the broker gets to agree to an end
TLS_SCHEMES = frozenset({"amqps", "ssl"})
SCHEMES = frozenset({"amqp", "amqps", "pyamqp", "tcp", "ssl"})


@dataclass(frozen=True)
class Hooks:
    """What a connection tells; all in the loop's thread, none may raise. Nobody need listen."""

    on_events: Callable[[list[Event]], None] = lambda _: None
    on_lost: Callable[[str, Closed | None], None] = lambda *_: None
    on_congested: Callable[[bool], None] = lambda _: None


class Connection(Stream):
    """Made by ``open()``."""

    BEAT = HEARTBEAT

    def __init__(self, endpoint: Endpoint, session: Session, hooks: Hooks) -> None:
        super().__init__(endpoint, hooks.on_lost, hooks.on_congested)
        self._session = session
        self._hooks = hooks
        self._calls: deque[tuple[int, asyncio.Future[tuple[Any, ...]]]] = deque()
        self.frame_max = 0
        self.server: Table = {}

    @classmethod
    async def open(
        cls, endpoint: Endpoint, hooks: Hooks, *, about: Table, timeout: float, frame_max: int
    ) -> Connection:
        """Connect and log in within ``timeout`` seconds; raises ConnectionFailed.

        ``frame_max`` (bytes) is the most that we agree to.
        """
        heartbeat = endpoint.options.heartbeat
        seconds = HEARTBEAT_S if heartbeat is None else -(-heartbeat // 1000)
        session = Session(_login(endpoint), heartbeat=seconds, frame_max=frame_max, about=about)
        connection = cls(endpoint, session, hooks)
        is_secure = endpoint.scheme in TLS_SCHEMES
        await connection._dial(
            is_secure=is_secure, port=5671 if is_secure else 5672, timeout=timeout
        )
        opened: Opened = connection._opened.result()
        connection.frame_max, connection.server = opened.frame_max, opened.server
        connection._start_beating(opened.heartbeat / 2, 2 * opened.heartbeat)
        return connection

    async def call(self, frame: bytes, answer: int) -> tuple[Any, ...]:
        """Send a method and wait for its answer; raises ConnectionFailed when none will come."""
        if self._is_over:
            raise self.failure
        future: asyncio.Future[tuple[Any, ...]] = self._loop.create_future()
        self._calls.append((answer, future))
        self.write(frame)
        return await future

    async def close(self) -> None:
        """End in order, or at once when the broker does not agree; returns when it is gone."""
        await self._say_goodbye(self._session.close(), GOODBYE_TIMEOUT)

    def _begin(self) -> bytes:
        return self._session.begin()

    def _feed(self, data: memoryview) -> None:
        try:
            events = self._session.feed(data)
            if answer := self._session.take():
                self.write(answer)
            if events and not self._is_over:
                self._dispatch(events)
        except WireError as error:
            self._lose(str(error))
        if self._session.is_closed:
            self._is_gone()

    def _dispatch(self, events: list[SessionEvent]) -> None:
        """Answers go to who asked; the rest is told in one piece."""
        rest: list[Event] = []
        closed: Closed | None = None
        for event in events:
            if isinstance(event, Opened):
                if not self._opened.done():
                    self._opened.set_result(event)
            elif isinstance(event, Closed):
                closed = event
            elif isinstance(event, Told) and self._calls and self._calls[0][0] == event.method:
                self._answer(event)
            else:
                rest.append(event)
        if rest:
            self._hooks.on_events(rest)
        if closed is not None:
            self._lose(str(closed), closed)

    def _answer(self, told: Told) -> None:
        _, future = self._calls.popleft()
        if not future.done():
            future.set_result(told.arguments)

    def _unanswered(self) -> Iterable[asyncio.Future[Any]]:
        return [answer for _, answer in self._calls]


def _login(endpoint: Endpoint) -> Login:
    vhost = unquote(endpoint.path.removeprefix("/"))
    mechanism = endpoint.query.get("auth_mechanism", "PLAIN").upper()
    return Login(
        endpoint.username or "guest",
        (endpoint.password or "") if endpoint.username else "guest",
        vhost if vhost.strip("/") else "/",
        mechanism,
    )
