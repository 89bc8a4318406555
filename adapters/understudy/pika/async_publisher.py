"""Publishing of one `AsyncChannel`: many coroutines at once, one order, confirms, resends.

Rules
* Every message goes through the channel's outbox (see `core.outbox`): written in the order of the
  calls, and after a failover in that order again, marked, before anything newer.
* Without trackMessages each call waits for its own message. When it is cancelled or its time is
  over, the message leaves the outbox and is never sent again; the link is not touched.
* With trackMessages a call waits only for room; what a broker refuses is told as `MessageFailed`,
  and raised by `flush`.
* A broker closes the channel, or the connection, over a message that it refuses; which one it was
  shows by the poison rule of the outbox.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from pika.adapters.blocking_connection import ReturnedMessage

from understudy import errors
from understudy.core.outbox import Entry, Outbox
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import logger
from understudy.pika.errors import ConnectionLost, refused
from understudy.pika.link_channel import LinkChannel
from understudy.pika.message import OutMessage, id_of
from understudy.pika.refusals import Refusals, nacked, tell, unroutable
from understudy.pika.requests import HIGH_WATER, check_size, too_late

if TYPE_CHECKING:
    from understudy.pika.async_session import AsyncSession

__all__ = ["AsyncPublisher", "Publication"]

BATCH = 64  # messages written before the socket is asked whether it has room


class Publication:
    """A message, and who waits for it."""

    __slots__ = ("future", "message", "outcome")

    def __init__(self, message: OutMessage, future: asyncio.Future[None] | None) -> None:
        self.message = message
        self.future = future  # None: nobody waits, it is tracked
        self.outcome: Exception | None = None


class AsyncPublisher:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        options = session.options
        self._confirms = options.confirms
        self._is_tracked = options.track_messages
        size = options.max_cache_size if self._is_tracked else sys.maxsize
        self._outbox: Outbox[Publication] = Outbox(size)
        self._link: LinkChannel | None = None
        self._waited_for: set[Publication] = set()
        #: what came back as unroutable, until its confirm; one id may stand for several messages
        self._returned: dict[str, deque[Any]] = {}
        self._refusals = Refusals(session.supervisor)
        self._turns: deque[asyncio.Future[Exception | None]] = deque()  # for room; the first looks
        self._tag = 0  # of this link

    def __repr__(self) -> str:
        return f"<AsyncPublisher {self._outbox!r}>"

    @property
    def is_empty(self) -> bool:
        """Whether no message waits for its confirm any more."""
        return self._outbox.is_empty

    @property
    def is_awaiting(self) -> bool:
        """Whether the present link owes a confirm."""
        return self._outbox.is_awaiting

    @property
    def has_begun(self) -> bool:
        """Whether the present link carries confirmed messages."""
        return self._link is not None and self._link.is_confirming

    # --- calls ----------------------------------------------------------------------------------

    async def publish(self, message: OutMessage, deadline: Deadline) -> None:
        """Send it; see the module for when this returns. Raises SendTimeout and refusals."""
        session = self._session
        session.want()
        if self._is_tracked:
            await self._put(Publication(message, None), deadline)
            return
        publication = Publication(message, session.loop.create_future())
        assert publication.future is not None
        self._outbox.offer(publication, message.size, message.message_id)
        self._waited_for.add(publication)
        self.pump()
        try:
            timeout = deadline.timeout()
            await asyncio.wait((publication.future,), timeout=timeout)
            if not publication.future.done():
                entry = self._take_out(publication)
                written = entry is not None and entry.is_in_doubt
                raise too_late(message, written, session, deadline)
        finally:
            self._take_out(publication)
        if publication.outcome is not None:
            raise publication.outcome

    async def _put(self, publication: Publication, deadline: Deadline) -> None:
        message, outbox = publication.message, self._outbox
        key, size = message.message_id, message.size
        turn: asyncio.Future[Exception | None] = self._session.loop.create_future()
        self._turns.append(turn)
        try:
            if self._turns[0] is not turn:
                await self._wait_for_turn(turn, deadline)
            while not outbox.offer(publication, size, key):
                await self._session.ready(lambda: self._has_room(size), deadline)
        except DeadlinePassed:
            raise too_late(message, False, self._session, deadline) from None
        finally:
            self._turns.remove(turn)
            if self._turns and not self._turns[0].done():
                self._turns[0].set_result(None)
        self.pump()

    async def _wait_for_turn(
        self, turn: asyncio.Future[Exception | None], deadline: Deadline
    ) -> None:
        await asyncio.wait((turn,), timeout=deadline.timeout())
        if not turn.done():
            raise DeadlinePassed
        failure = turn.result()
        if failure is not None:
            raise failure

    def _has_room(self, size: int) -> bool:
        return self.is_empty or self._outbox.bytes + size <= self._session.options.max_cache_size

    def _take_out(self, publication: Publication) -> Entry[Publication] | None:
        """It is never sent again, whatever becomes of its call."""
        self._waited_for.discard(publication)
        if publication.future is None or publication.future.done():
            return None
        entry = self._outbox.drop(publication.message.message_id, publication)
        self._maybe_end_turn()
        self.pump()
        return entry

    async def flush(self, deadline: Deadline) -> bool:
        """Wait until every message is confirmed; False at the deadline. Raises refusals."""
        try:
            while not self.is_empty:
                await self._session.ready(lambda: self.is_empty, deadline)
        except DeadlinePassed:
            return False
        self._refusals.raise_first()
        return True

    def give_up_rest(self) -> None:
        """The channel is closed: tell of what is still without a confirm."""
        self.gave_up(ConnectionLost("the channel was closed while this call waited"))
        left = self._outbox.keys()
        self._session.end(self)
        if not left:
            return
        logger.error("%d tracked messages are unconfirmed: %s", len(left), ", ".join(left))
        for key in left:
            tell(self._session.supervisor, "unconfirmed when it was closed", key)

    def gave_up(self, failure: Exception) -> None:
        """There is no broker: whoever waits gets this error."""
        for publication in list(self._waited_for):
            self._take_out(publication)
            self._settle(publication, copy.copy(failure))
        for turn in self._turns:
            if not turn.done():
                turn.set_result(copy.copy(failure))

    # --- to the link ----------------------------------------------------------------------------

    def begin(self, link: LinkChannel) -> None:
        """The channel is open again."""
        self._link = link
        self._tag = 0
        self.pump()

    def pump(self) -> None:
        """Write what may be written now."""
        link = self._link
        wire = self._session.wire
        suspects = self._session.suspects
        if link is None or wire is None or not link.is_open or not suspects.may_go(self):
            return
        with self._session.writing(wire):
            while wire.unwritten < HIGH_WATER:
                batch = self._outbox.next_unwritten(BATCH)
                if not batch:
                    break
                suspects.began(self, is_outbox=True)
                for entry in batch:
                    self._write(entry, link)

    def _write(self, entry: Entry[Publication], link: LinkChannel) -> None:
        message = entry.item.message
        try:
            check_size(message, link.link)
        except errors.Refused as exc:
            self._outbox.drop(message.message_id, entry.item)
            self._settle(entry.item, exc)
            self._maybe_end_turn()
            return
        if self._confirms and not link.is_confirming:
            link.select_confirms()
        if entry.attempts:
            message.mark_resend()
        self._tag += 1
        self._outbox.written(entry, self._tag)
        link.publish(message)
        if not self._confirms:
            self.settled(self._tag, False, True)

    # --- from the link --------------------------------------------------------------------------

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        if ok:
            entries = self._outbox.confirmed(tag, multiple)
        else:
            entries = self._outbox.refused(tag, multiple)
        for entry in entries:
            self._settle(entry.item, self._outcome(entry, ok))
        self._maybe_end_turn()
        if self._confirms:
            self.pump()

    def _maybe_end_turn(self) -> None:
        """Others may write if they waited for what was outstanding here; see `core.suspects`."""
        if not self._outbox.in_flight and not self._outbox.is_probing:
            self._session.end(self)

    def returned(self, method: Any, properties: Any, body: bytes) -> None:
        key = str(id_of(properties))
        if self._outbox.returned(key):
            back = ReturnedMessage(method, properties, body)
            self._returned.setdefault(key, deque()).append(back)

    def _outcome(self, entry: Entry[Publication], ok: bool) -> errors.DeliveryFailed | None:
        key = entry.key
        if not ok:
            return nacked(key)
        if not entry.returned:
            return None
        back = self._returned[key].popleft()
        if not self._returned[key]:
            del self._returned[key]
        return unroutable(key, back)

    def _settle(self, publication: Publication, outcome: Exception | None) -> None:
        future = publication.future
        if future is not None:
            publication.outcome = outcome
            if not future.done():
                future.set_result(None)
        elif isinstance(outcome, errors.DeliveryFailed):
            self._refusals.add(outcome)

    def link_lost(self) -> None:
        """No message's fault."""
        self._link = None
        self._returned.clear()
        self._outbox.link_lost()

    def closed_over_a_message(self, cause: Exception, *, alone: bool = True) -> None:
        """The broker has closed the channel or the connection; a message may be the reason.

        ``alone``: nothing else may be.
        """
        self._link = None
        self._returned.clear()
        convicted = self._outbox.channel_closed(alone=alone)
        if convicted is not None:
            self._settle(convicted.item, refused(cause, convicted.key))
        self._maybe_end_turn()
