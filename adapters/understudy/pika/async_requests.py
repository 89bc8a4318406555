"""What every part of an `AsyncChannel` is built on: its link, and requests that survive the broker.

Rules
* A request is bounded by ``timeout`` and asked again on a new link. It may be cancelled: its answer
  still comes, in its turn, and nobody takes it.
* A refusal closes the channel at the broker. It is raised by the request that the broker names; the
  others that waited are asked again, as is one that brokers close the connection over, once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from pika import exceptions

from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.pika.async_session import AsyncSession
from understudy.pika.link_channel import Ask, LinkChannel, LinkLost
from understudy.pika.requests import Verdicts, is_held, timed_out
from understudy.pika.wire import Wire

__all__ = ["AsyncRequests"]


class AsyncRequests:
    """A channel's identity over all links, and its present link."""

    def __init__(self, session: AsyncSession, number: int) -> None:
        self.number = number
        self.is_closed = False
        self.is_kept = False  # it comes with every new wire: once it has been open
        self._session = session
        self._link: LinkChannel | None = None  # None until it is open on the present wire
        self._fresh: LinkChannel | None = None  # being restored
        self._asks: list[tuple[Ask, int]] = []  # with what was asked
        self._culprit: Ask | None = None  # over which the channel was closed last
        self._reason: Exception | None = None  # for which it is closed for good
        self._last_queue = ""  # what an empty name means

    async def _request(self, method: Any, reply: type) -> Any:
        """Ask the broker; what succeeded is remembered."""
        answer = (await self.request(method, reply)).answer
        self._session.topology.note(method)
        return answer

    async def request(
        self,
        method: Any,
        *replies: type,
        asked: list[tuple[LinkChannel, Ask]] | None = None,
    ) -> Ask:
        """Ask the broker, whichever that is by then. Raises its refusal, and SendTimeout.

        ``asked`` gets what was written, for callers to whom that matters when they are cancelled.
        """
        session = self._session
        deadline = session.deadline()
        verdicts = Verdicts()
        party = object()
        try:
            while True:
                link = await self.begin(party, deadline)
                wire = session.wire
                assert wire is not None
                with session.writing(wire):
                    ask = link.ask(method, *replies)
                if asked is not None:
                    asked.append((link, ask))
                self._asks.append((ask, method.INDEX))
                try:
                    if not await self.answered(wire, ask, deadline):
                        raise DeadlinePassed
                except LinkLost as lost:
                    if culprit := verdicts.note(lost.cause, lost.convicts()):
                        raise culprit from None
                    continue
                finally:
                    self._asks.remove((ask, method.INDEX))
                if ask.failed is None:
                    return ask
                if verdicts.note(ask.failed) or ask is self._culprit:
                    raise ask.failed
        except DeadlinePassed:
            raise timed_out(method.NAME, session, deadline) from None
        finally:
            session.end(party)

    async def answered(self, wire: Wire, ask: Ask, deadline: Deadline) -> bool:
        """Wait for an answer; False at the deadline. Raises LinkLost, and when it is closed."""
        is_over = lambda: ask.is_over() or self.is_closed  # noqa: E731
        arrived = await self._session.answered(wire, is_over, deadline.moment)
        if arrived and not ask.is_over():
            self._check_open()
        return arrived

    async def request_for_good(
        self,
        method: Any,
        reply: type,
        keep: Callable[[], None],
        asked: list[tuple[LinkChannel, Ask]],
    ) -> None:
        """A request that is repeated whenever the channel is restored, from ``keep`` on."""
        while True:
            await self.request(method, reply, asked=asked)
            keep()
            if is_held(asked[-1][0], self._link, self._fresh):
                return  # else it was restored without it meanwhile

    async def begin(self, party: Hashable, deadline: Deadline) -> LinkChannel:
        """`usable`, when it is its turn (see `core.suspects`); the session is owed an `end`."""
        suspects = self._session.suspects
        may_go = lambda: self._is_on_a_link() and suspects.may_go(party)  # noqa: E731
        await self._session.ready(lambda: self.is_closed or may_go(), deadline)
        self._check_open()
        assert self._link is not None
        suspects.began(party)
        return self._link

    async def usable(self, deadline: Deadline) -> LinkChannel:
        """The open link; raises as `AsyncSession.ready`."""
        await self._session.ready(lambda: self._is_on_a_link() or self.is_closed, deadline)
        self._check_open()
        assert self._link is not None
        return self._link

    def _is_on_a_link(self) -> bool:
        return self._link is not None and self._link.link.lost is None

    def _check_open(self) -> None:
        self._session.check_open()
        if self.is_closed:
            raise self._reason or exceptions.ChannelWrongStateError("the channel is closed")
