"""AsyncConnection: pika's calls as coroutines, on whichever broker is current."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from pika import exceptions

from understudy import discovery
from understudy.errors import ConfigurationError
from understudy.failover import fanout
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import EventCallback, checked_callback
from understudy.pika.alarms import AlarmCallbacks
from understudy.pika.async_channel import AsyncChannel
from understudy.pika.async_fanout import AsyncFanout
from understudy.pika.async_session import AsyncSession
from understudy.pika.dialing import SCHEMES, PikaDialer, read_parameters
from understudy.pika.errors import IS_CLOSED, ConnectFailed, ConnectionLost
from understudy.pika.requests import timed_out

__all__ = ["AsyncConnection"]


class AsyncConnection(AlarmCallbacks):
    """A connection for coroutines that survives its broker.

    ```python
    async with AsyncConnection("failover:(amqp://mq1,amqp://mq2)?timeout=10000") as connection:
        channel = await connection.channel()
        await channel.basic_publish("", "orders", b"hello")
    ```
    It belongs to the event loop in which it is connected, and to its coroutines alone; on Windows
    that must be a SelectorEventLoop, as for pika itself. Callbacks (a message came back, the broker
    blocks publishers) are functions, called by the loop in between.
    """

    def __init__(
        self,
        parameters: Any = None,
        *,
        options: Mapping[str, object] | None = None,
        on_event: EventCallback | None = None,
    ) -> None:
        """Nothing is dialed before `connect`, or ``async with``.

        ``parameters``: a failover URI, any URI, pika's ConnectionParameters or URLParameters, or a
        list of these (tried in order). ``options`` are those of the URI, by their names there or in
        Python; the URI goes first. ``on_event`` is called with the events of `understudy`, on a
        thread of its own. Raises ConfigurationError.
        """
        self._uri, self._known = read_parameters(parameters, options)
        if self._uri.scheme == "fanout":
            fanout.check(self._uri)
            need, members = self._uri.options.min_ack_count, len(self._uri.endpoints)
            if need > members:
                raise ConfigurationError(
                    f"minAckCount={need} can't be reached with {members} brokers: {self._uri}"
                )
        discovery.check(self._uri, schemes=SCHEMES)
        super().__init__()
        self._on_event = checked_callback(on_event)
        self._session: AsyncSession | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        session = self._session
        where = session.supervisor.current if session is not None else None
        state = "closed" if self.is_closed else f"on {where}" if where else "connecting"
        return f"<AsyncConnection {state} of {self._uri}>"

    async def __aenter__(self) -> AsyncConnection:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- life -----------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._is_closed or (self._session is not None and self._session.is_closed)

    @property
    def is_open(self) -> bool:
        """True between two brokers too: it is closed by the application only."""
        return self._session is not None and not self.is_closed

    @property
    def stale_acks(self) -> int:
        """Acknowledgements of earlier connections that were dropped."""
        return self._session.stale_acks if self._session is not None else 0

    async def connect(self) -> AsyncConnection:
        """Connect, within ``timeout``; nothing happens when it is connected already.

        Raises ConnectFailed when no broker could be reached, and is closed then.
        """
        if self.is_closed:
            raise ConnectionLost(IS_CLOSED)
        if self._session is not None:
            return self
        self._dialer = PikaDialer(self._uri, self._known)
        session = self._session = AsyncSession(self._uri, self._dialer, self._on_event)
        session.on_blocked = self._blocking_changed
        deadline = session.deadline()
        if self._uri.scheme == "fanout":
            session.fanout = AsyncFanout(self._uri, self._known, session.topology)
        try:
            await session.ready(lambda: session.is_live, deadline)
        except BaseException as exc:
            attempts = session.supervisor.attempts
            await self._shut()
            if isinstance(exc, DeadlinePassed):
                limit = self._uri.options.timeout
                text = f"no endpoint could be connected to within timeout={limit} ms"
                raise ConnectFailed(text, attempts) from None
            raise
        return self

    async def close(self) -> None:
        """Flush tracked messages and copies of fanout:, for ``closeTimeout`` at most, and end.

        Twice is fine. Bounded whatever state the broker is in. Raises what was refused.
        """
        session = self._session
        if session is None or self.is_closed:
            self._is_closed = True
            return
        try:
            if session.options.track_messages:
                await self.flush(session.options.close_timeout / 1000)
        finally:
            await self._shut()

    async def _shut(self) -> None:
        assert self._session is not None
        self._is_closed = True
        for channel in list(self._session.channels.values()):
            channel.end()
        try:
            if self._session.fanout is not None:
                limit = self._session.options.close_timeout
                await self._session.fanout.close(Deadline(limit / 1000))
        finally:
            await self._session.close()

    # --- use ------------------------------------------------------------------------------------

    async def channel(self) -> AsyncChannel:
        """Open a channel. It stays open over failovers; ``async with`` closes it."""
        session = self._open_session()
        number = self._free_number(session)
        channel = session.channels[number] = AsyncChannel(session, number)
        deadline = session.deadline()
        try:
            await channel.opened(deadline)
        except BaseException as exc:
            await channel.close()
            if isinstance(exc, DeadlinePassed):
                raise timed_out("Channel.Open", session, deadline) from None
            raise
        return channel

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every message is confirmed, at most ``timeout`` seconds; None = for ever.

        True when all are. Raises the refusal of a tracked message, or ConnectFailed when
        reconnecting was given up.
        """
        session = self._open_session()
        deadline = Deadline(timeout)
        flushing = [channel.flush_until(deadline) for channel in session.channels.values()]
        ends = await asyncio.gather(*flushing, return_exceptions=True)
        for end in ends:  # a refusal on one channel ends nobody's wait on another
            if isinstance(end, BaseException):
                raise end
        return all(ends)

    async def update_secret(self, new_secret: str, reason: str) -> None:
        """Tell the broker the new password or token; later connections log in with it too."""
        session = self._open_session()
        deadline = session.deadline()
        try:
            wire = await session.exchange(
                lambda wire: wire.update_secret(new_secret, reason).is_over, deadline
            )
        except DeadlinePassed:
            raise timed_out("Connection.UpdateSecret", session, deadline) from None
        if wire.endpoint.username is not None:
            self._dialer.secrets[wire.endpoint.username] = new_secret

    def _soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        assert self._session is not None
        self._session.loop.call_soon(callback, *arguments)  # closed or not

    def _open_session(self) -> AsyncSession:
        if self.is_closed:
            raise ConnectionLost(IS_CLOSED)
        if self._session is None:
            raise exceptions.ConnectionWrongStateError(
                "not connected: await connection.connect(), or use async with"
            )
        return self._session

    def _free_number(self, session: AsyncSession) -> int:
        limit = session.wire.channel_max if session.wire is not None else 2047  # RabbitMQ's
        for number in range(1, limit + 1):
            if number not in session.channels:
                return number
        raise exceptions.NoFreeChannels
