"""fanout: for pika's coroutines; the rules are those of `understudy.pika.fanout`.

Each member has a session and a channel of its own on the same event loop, and each copy a task. A
call that is cancelled, or out of time, takes its copies back, as far as they are not with their
brokers yet. A member that has given up is asked to connect once more by each send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from understudy.core.endpoint import Endpoint
from understudy.core.fanout import LANE_SIZE, Standing, Tally, can_begin, never_sent
from understudy.core.uri import FailoverURI
from understudy.errors import SendTimeout
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.fanout import Closed, alone, log_left, log_missed, log_not_taken
from understudy.pika.async_channel import AsyncChannel
from understudy.pika.async_session import AsyncSession
from understudy.pika.dialing import PikaDialer
from understudy.pika.fanout import as_pikas
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
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_ended = False

    def __repr__(self) -> str:
        up = sum(member.is_up for member in self._members)
        return f"<AsyncFanout {up} of {len(self._members)} connected, {self._need} needed>"

    def takes(self, message: OutMessage) -> bool:
        """Whether a message goes to all members."""
        return bool(message.exchange) or self._queues_too

    async def publish(self, message: OutMessage, deadline: Deadline) -> None:
        """Return when ``minAckCount`` brokers have confirmed it.

        Raises SendTimeout, ConnectionLost when closed meanwhile, ConnectFailed when too many
        members are given up, or the first refusal when too many members refuse.
        """
        with as_pikas():
            await self._publish(message, deadline)

    async def _publish(self, message: OutMessage, deadline: Deadline) -> None:
        ready = await self._enough_members(message.message_id, deadline)
        for member in self._members:
            member.note(member in ready)
        tally = Tally(self._need, len(ready))
        open_copies = {self._copy(member, message, deadline) for member in ready}
        try:
            while not tally.is_over and deadline.remaining() > 0:
                done, open_copies = await asyncio.wait(
                    open_copies, timeout=deadline.timeout(), return_when=asyncio.FIRST_COMPLETED
                )
                for copy in done:
                    if copy.cancelled():
                        raise Closed
                    tally.settle(copy.result())
        finally:
            if not tally.is_over:
                for copy in open_copies:
                    copy.cancel()
        tally.check(message.message_id, deadline.seconds or 0)

    def _copy(
        self, member: _Member, message: OutMessage, deadline: Deadline
    ) -> asyncio.Task[Exception | None]:
        copy = asyncio.get_running_loop().create_task(member.publish(message.copy(), deadline))
        member.copies.add(copy)
        copy.add_done_callback(lambda _: self._done(member, copy))
        return copy

    def _done(self, member: _Member, copy: asyncio.Task[Exception | None]) -> None:
        member.copies.discard(copy)
        if not copy.cancelled() and not self._has_ended and (error := copy.result()) is not None:
            log_not_taken(member.name, error)

    async def _enough_members(self, message_id: str, deadline: Deadline) -> list[_Member]:
        given_up: dict[_Member, str] = {}
        while True:
            if self._closing.done():
                raise Closed
            standings = [member.standing(given_up.get(member, "")) for member in self._members]
            if can_begin(standings, self._need):
                return [m for m, one in zip(self._members, standings, strict=True) if one.is_ready]
            if deadline.remaining() <= 0:
                raise never_sent(standings, self._need, message_id, deadline.seconds or 0)
            away = [
                member
                for member, one in zip(self._members, standings, strict=True)
                if not one.is_ready and not one.given_up
            ]
            given_up.update(await self._next_change(away, deadline))

    async def _next_change(self, away: list[_Member], deadline: Deadline) -> dict[_Member, str]:
        """Until one of them has come, has given up, or the deadline; who has given up, and why."""
        waits = {asyncio.ensure_future(member.come(deadline)): member for member in away}
        closing: asyncio.Future[Any] = self._closing
        try:
            done, _ = await asyncio.wait((*waits, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return {
            member: wait.result()
            for wait, member in waits.items()
            if wait in done and wait.result()
        }

    async def close(self, deadline: Deadline) -> None:
        """Let the copies that were taken be confirmed, until the deadline; then end all members.

        Sends that wait for members end with ConnectionLost at once, the others at the deadline.
        """
        if not self._closing.done():
            self._closing.set_result(None)
        try:
            if copies := [copy for member in self._members for copy in member.copies]:
                await asyncio.wait(copies, timeout=deadline.timeout())
        finally:
            self._has_ended = True
            for member in self._members:
                if member.copies:
                    log_left(member.name, len(member.copies))
                for copy in member.copies:
                    copy.cancel()
            await asyncio.gather(*(member.close() for member in self._members))


class _Member:
    """One broker of the list, with a channel for messages to all."""

    def __init__(
        self, uri: FailoverURI, endpoint: Endpoint, known: Known, topology: Topology
    ) -> None:
        self.name = str(endpoint)
        self.copies: set[asyncio.Task[Exception | None]] = set()  # that it has not answered
        own = alone(uri, endpoint)
        self._session = AsyncSession(own, PikaDialer(own, known), None)
        self._channel = self._session.channels[1] = AsyncChannel(self._session, 1)
        self._channel.is_kept = True  # from the first wire on
        self._topology = topology
        self._declaring = asyncio.Lock()
        self._missed = 0  # messages sent while it was not connected

    @property
    def is_up(self) -> bool:
        return self._session.is_live

    def standing(self, given_up: str) -> Standing:
        return Standing(self.name, self.is_up, len(self.copies), given_up)

    async def come(self, deadline: Deadline) -> str:
        """Until it is ready, or the deadline; else why it has given up."""
        session = self._session
        try:
            await session.ready(lambda: session.is_live, deadline)
        except DeadlinePassed:
            return ""
        except Exception as exc:
            return str(exc) or repr(exc)
        while len(self.copies) >= LANE_SIZE and deadline.remaining() > 0:
            await asyncio.wait(
                self.copies, timeout=deadline.timeout(), return_when=asyncio.FIRST_COMPLETED
            )
        return ""

    def note(self, is_ready: bool) -> None:
        """A message goes out, to this member or without it."""
        if not is_ready:
            self._missed += 1
        elif self._missed:
            log_missed(self.name, self._missed)
            self._missed = 0

    async def publish(self, message: OutMessage, deadline: Deadline) -> Exception | None:
        """None when this broker has confirmed it; else why not."""
        try:
            await asyncio.wait_for(self._declare(), deadline.timeout())
            deadline.check()
            await self._channel.publish_until(message, deadline)
        except (DeadlinePassed, asyncio.TimeoutError):
            return SendTimeout("its time was up")
        except Exception as exc:
            return exc
        return None

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
