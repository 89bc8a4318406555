"""Transactions on an `AsyncChannel`.

Rules
* Messages are written as they come and recorded; after a failover they are written again, in a new
  transaction. What dooms a transaction is decided by `core.transaction`.
* A commit that was written goes on when its caller is cancelled or out of time: what comes next on
  the channel waits for its end, because only that tells to which transaction it belongs.
* The commit of a doomed transaction rolls back and raises `TransactionRolledBack`. When the broker
  has closed the channel within a transaction, its commit raises that error. Either ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from pika import exceptions, spec

from understudy.core.transaction import TransactionLog
from understudy.errors import ConfigurationError
from understudy.failover.deadline import NEVER, Deadline, DeadlinePassed
from understudy.pika.async_receiving import AsyncReceiving
from understudy.pika.async_session import AsyncSession
from understudy.pika.errors import TransactionRolledBack
from understudy.pika.link_channel import Ask, LinkChannel, LinkLost
from understudy.pika.message import OutMessage
from understudy.pika.requests import HIGH_WATER, check_size, timed_out, too_late

__all__ = ["AsyncTransactions"]


class AsyncTransactions(AsyncReceiving):
    def __init__(self, session: AsyncSession, number: int) -> None:
        super().__init__(session, number)
        self._ending: asyncio.Task[None] | None = None  # the commit that is under way
        self._broken: Exception | None = None  # why the broker has ended the transaction

    async def _publish_in_transaction(
        self, message: OutMessage, log: TransactionLog[OutMessage]
    ) -> None:
        session = self._session
        deadline = session.deadline()
        try:
            await self._idle(deadline)
            link = await self._usable_in_turn(deadline)
        except DeadlinePassed:
            raise too_late(message, False, session, deadline) from None
        wire = session.wire
        assert wire is not None
        check_size(message, wire)
        if log.is_doomed or self._broken is not None:
            return  # its commit will say so
        log.sent(message, message.message_id)
        with session.writing(wire):
            link.publish(message)
        with contextlib.suppress(LinkLost):  # it is replayed, or the commit tells
            is_written = lambda: wire.unwritten < HIGH_WATER  # noqa: E731
            if not await session.answered(wire, is_written, deadline.moment):
                wire.sever("a write did not end within timeout")  # or the rest would follow later
                session.changed()
                log.taken_back(message)
                raise too_late(message, True, session, deadline)

    async def tx_select(self) -> None:
        """Begin with transactions, on a channel that has not published with confirms."""
        self._check_open()
        if self._session.fanout is not None:
            raise ConfigurationError("fanout: has no transactions over several brokers")
        if self._log is not None:
            return
        if self._has_published():
            raise exceptions.ChannelWrongStateError(
                "this channel has published with confirms, which exclude transactions: open another"
            )
        replays = self._session.options.track_transaction_producers
        self._log = TransactionLog(replays=replays)  # a restored channel is in tx mode from now on
        try:
            await self.request(spec.Tx.Select(), spec.Tx.SelectOk)
        except exceptions.ChannelClosedByBroker:
            self._log = None
            raise

    async def tx_commit(self) -> None:
        """Commit what was published and acknowledged since the last one.

        Raises TransactionRolledBack when a failover has made that impossible or left it in doubt,
        and SendTimeout with ``written`` when there was no answer in time.
        """
        log, session = self._transactions(), self._session
        deadline = session.deadline()
        try:
            await self._idle(deadline)
            link = await self._usable_in_turn(deadline)
        except DeadlinePassed:
            raise timed_out("Tx.Commit", session, deadline) from None
        if self._broken is not None:
            raise self._ended(log)
        if log.doom is not None:
            doom, keys = log.doom, log.keys
            await self.tx_rollback()
            raise TransactionRolledBack(
                f"the transaction was rolled back: {doom.reason}",
                message_ids=keys,
                is_in_doubt=doom.is_in_doubt,
            )
        wire = session.wire
        assert wire is not None
        log.committing()
        with session.writing(wire):
            ask = link.ask(spec.Tx.Commit(), spec.Tx.CommitOk)
        self._ending = session.loop.create_task(self._commit(log, link, ask))
        self._ending.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait((self._ending,), timeout=deadline.timeout())
        if not self._ending.done():
            error = timed_out("Tx.Commit, which is in doubt,", session, deadline)
            error.written = True
            raise error
        self._ending.result()

    async def _commit(self, log: TransactionLog[OutMessage], link: LinkChannel, ask: Ask) -> None:
        """See the end of a commit that was written, whoever still waits for it."""
        session = self._session
        await session.until(
            lambda: ask.is_over() or self._link is not link or not link.is_open or self.is_closed
        )
        if self._broken is not None:
            raise self._ended(log)
        is_in_doubt = ask.answer is None and not log.is_empty
        reason = log.doom.reason if log.doom is not None else "its channel was closed"
        keys = log.keys
        log.ended()
        self._acked_in_transaction.clear()
        if is_in_doubt:
            raise TransactionRolledBack(
                f"the transaction is in doubt: {reason}", message_ids=keys, is_in_doubt=True
            )

    async def tx_rollback(self) -> None:
        """Forget what was published and acknowledged since the last commit.

        Without a broker it is over at once, as there is nothing to roll back.
        """
        log, session = self._transactions(), self._session
        deadline = session.deadline()
        try:
            await self._idle(deadline)
        except DeadlinePassed:
            raise timed_out("Tx.Rollback", session, deadline) from None
        self._unacked |= self._acked_in_transaction
        self._ended(log)
        link, wire = self._link, session.wire
        if link is None or wire is None or wire.lost is not None:
            return
        with session.writing(wire):
            ask = link.ask(spec.Tx.Rollback(), spec.Tx.RollbackOk)
        with contextlib.suppress(LinkLost):  # the broker rolls back what it has
            if not await self.answered(wire, ask, deadline):
                raise timed_out("Tx.Rollback", session, deadline)

    async def _usable_in_turn(self, deadline: Deadline) -> LinkChannel:
        """The link, for what the channel itself is known to wait for (`_is_in_transaction`)."""
        party = object()
        try:
            return await self.begin(party, deadline)
        finally:
            self._session.end(party)

    @property
    def _is_in_transaction(self) -> bool:
        """Whether the link carries messages that no commit has settled."""
        log = self._log
        return log is not None and not log.is_empty and not log.is_doomed

    def _transactions(self) -> TransactionLog[OutMessage]:
        self._check_open()
        if self._log is None:
            raise exceptions.ChannelWrongStateError("there is no transaction: call tx_select first")
        return self._log

    def _ended(self, log: TransactionLog[Any]) -> Exception:
        """The transaction is over; why, if the broker has ended it."""
        broken, self._broken = self._broken, None
        log.ended()
        self._acked_in_transaction.clear()
        return broken or LinkLost("the transaction is over")

    async def _idle(self, deadline: Deadline = NEVER) -> None:
        """Wait for the end of a commit whose caller has left."""
        while self._ending is not None and not self._ending.done():
            await asyncio.wait((self._ending,), timeout=deadline.timeout())
            deadline.check()

    # --- what comes from the link ---------------------------------------------------------------

    def _replay(self, link: LinkChannel) -> None:
        """Write an open transaction again, on a new link."""
        if self._log is not None and self._broken is None:
            for message in self._log.replay:
                link.publish(message)

    def _transaction_broken(self, reason: Exception) -> None:
        """The broker has closed the channel."""
        if self._log is not None and not self._log.is_empty:
            self._broken = reason
            self._log.ended()

    def _transaction_lost(self, lost: LinkLost) -> None:
        """The wire is over."""
        if self._log is not None and self._broken is None:
            self._log.link_lost(accused=lost.is_verdict)

    def _has_published(self) -> bool:
        raise NotImplementedError
