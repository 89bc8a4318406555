"""fanout: for pika's coroutines; the rules are those of `understudy.pika.fanout`.

Each member has a session and a channel of its own on the same event loop, and each copy a task. A
call that is cancelled takes its copies back, as far as they are not with their brokers yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pika import exceptions

from understudy.core.endpoint import Endpoint
from understudy.core.uri import FailoverURI
from understudy.failover.deadline import Deadline
from understudy.failover.fanout import alone
from understudy.failover.notifier import logger
from understudy.pika.async_channel import AsyncChannel
from understudy.pika.async_session import AsyncSession
from understudy.pika.dialing import PikaDialer
from understudy.pika.errors import CLOSED, ConnectionLost, SendTimeout
from understudy.pika.message import OutMessage
from understudy.pika.restoring import REPLIES
from understudy.pika.topology import Topology

__all__ = ["AsyncFanout"]

Known = Mapping[tuple[object, ...], Any]


class AsyncFanout:
    def __init__(self, uri: FailoverURI, known: Known, topology: Topology) -> None:
        """Within the event loop; the members are connected to from now on."""
        self._need = uri.options.min_ack_count
        self._queues_too = uri.options.fan_out_queues
        self._members = [_Member(uri, endpoint, known, topology) for endpoint in uri.endpoints]
        self._copies: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def takes(self, message: OutMessage) -> bool:
        """Whether a message goes to all members."""
        return bool(message.exchange) or self._queues_too

    async def publish(self, message: OutMessage, deadline: Deadline) -> None:
        """Return when ``minAckCount`` brokers have confirmed it.

        Raises SendTimeout, ConnectionLost when closed meanwhile, or the first refusal when too many
        members refuse.
        """
        ready = await self._enough_members(message, deadline)
        for member in self._members:
            member.note(member in ready)
        open_copies = {self._copy(member, message, deadline) for member in ready}
        acks, refusal = 0, None
        try:
            while acks < self._need <= acks + len(open_copies):
                done, open_copies = await asyncio.wait(
                    open_copies, timeout=deadline.timeout(), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                errors = [_error_of(copy) for copy in done]
                acks += errors.count(None)
                refusal = refusal or next((e for e in errors if _is_refusal(e)), None)
        except asyncio.CancelledError:
            for copy in open_copies:
                copy.cancel()
            raise
        if acks >= self._need:
            return
        for copy in open_copies:
            copy.cancel()
        self._check_open()
        if refusal is not None:
            raise refusal
        raise self._timeout(message, deadline, f"only {acks} brokers have confirmed it", True)

    def _copy(self, member: _Member, message: OutMessage, deadline: Deadline) -> asyncio.Task[None]:
        copy = asyncio.get_running_loop().create_task(member.publish(message.copy(), deadline))
        self._copies.add(copy)
        copy.add_done_callback(lambda _: self._done(member, copy))
        return copy

    def _done(self, member: _Member, copy: asyncio.Task[None]) -> None:
        self._copies.discard(copy)
        error = _error_of(copy)
        if error is not None and not copy.cancelled() and not self._is_closed:
            logger.warning("fanout: %s did not take a message: %s", member.name, error)

    async def _enough_members(self, message: OutMessage, deadline: Deadline) -> list[_Member]:
        while True:
            self._check_open()
            ready = [member for member in self._members if member.is_ready]
            if len(ready) >= self._need:
                return ready
            if deadline.remaining() <= 0:
                away = ", ".join(one.name for one in self._members if one not in ready)
                text = f"only {len(ready)} brokers are connected (not: {away})"
                raise self._timeout(message, deadline, text, False)
            waits = {
                asyncio.ensure_future(member.wait_ready(deadline))
                for member in self._members
                if member not in ready
            }
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)

    def _timeout(
        self, message: OutMessage, deadline: Deadline, what: str, written: bool
    ) -> SendTimeout:
        limit = (deadline.seconds or 0) * 1000
        text = f"message {message.message_id}: {what}, with minAckCount={self._need}"
        return SendTimeout(
            f"{text} and timeout={limit:.0f} ms", message_id=message.message_id, written=written
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConnectionLost(CLOSED)

    async def close(self) -> None:
        """End all members; what waits ends with ConnectionLost."""
        self._is_closed = True
        for copy in list(self._copies):
            copy.cancel()
        await asyncio.gather(*(member.close() for member in self._members))


class _Member:
    """One broker of the list, with a channel for messages to all."""

    def __init__(
        self, uri: FailoverURI, endpoint: Endpoint, known: Known, topology: Topology
    ) -> None:
        self.name = str(endpoint)
        own = alone(uri, endpoint)
        self._session = AsyncSession(own, PikaDialer(own, known), None)
        self._channel = self._session.channels[1] = AsyncChannel(self._session, 1)
        self._topology = topology
        self._declaring = asyncio.Lock()
        self._missed = 0  # messages sent while it was not connected

    @property
    def is_ready(self) -> bool:
        return self._session.is_live

    async def wait_ready(self, deadline: Deadline) -> None:
        session = self._session
        await session.until(lambda: session.is_live or session.is_closed, deadline.moment)

    def note(self, is_ready: bool) -> None:
        """A message goes out, to this member or without it."""
        if not is_ready:
            self._missed += 1
        elif self._missed:
            logger.warning("fanout: %s missed %d messages", self.name, self._missed)
            self._missed = 0

    async def publish(self, message: OutMessage, deadline: Deadline) -> None:
        await asyncio.wait_for(self._declare(), deadline.timeout())
        await self._channel.publish_until(message, deadline)

    async def _declare(self) -> None:
        """What the application has declared since the last message."""
        async with self._declaring:
            known = self._session.topology.methods()
            for method in self._topology.shared():
                if method not in known:
                    await self._channel.request(method, REPLIES[type(method)])
                    self._session.topology.note(method)

    async def close(self) -> None:
        self._channel.end()
        await self._session.close()


def _error_of(copy: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if copy.cancelled() else copy.exception()


def _is_refusal(error: BaseException | None) -> bool:
    return isinstance(error, exceptions.AMQPError) and not isinstance(error, SendTimeout)
