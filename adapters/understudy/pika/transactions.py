"""Transactions on a channel that survives the broker.

Rules
* Messages are written as they come and recorded; after a failover they are written again, in a new
  transaction. What dooms a transaction is decided by `core.transaction`.
* The commit of a doomed transaction rolls back and raises `TransactionRolledBack`; a commit that
  was written and not answered is never repeated by us. Either ends the transaction: the next one
  has begun.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

from pika import frame, spec

from understudy.core.transaction import TransactionLog
from understudy.errors import ConfigurationError
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.pika import restoring
from understudy.pika.errors import TransactionRolledBack
from understudy.pika.generating import Generating
from understudy.pika.link_channel import LinkChannel, LinkLost
from understudy.pika.message import OutMessage
from understudy.pika.requests import Verdicts, check_size, timed_out, too_late
from understudy.pika.restoring import Restored, RestoreFailed, Step
from understudy.pika.wire import Wire

__all__ = ["Transactions"]


class Transactions(Generating):
    def _publish_in_transaction(self, message: OutMessage, log: TransactionLog[OutMessage]) -> None:
        session = self._session
        deadline, thread = session.deadline(), threading.get_ident()
        try:
            wire = session.begin(deadline)
        except DeadlinePassed:
            raise too_late(message, False, session, deadline) from None
        finally:
            session.over.add(thread)
            session.end()  # from now on the channel itself is known to be in a transaction
        link = self._open_link()
        check_size(message, wire)
        if log.is_doomed:
            return  # its commit will say so
        log.sent(message, message.message_id)
        link.publish(message)
        try:
            if not session.wait(wire, lambda: not wire.unwritten, deadline.moment):
                wire.sever("a write did not end within timeout")  # or the rest would follow later
                log.taken_back(message)
                raise too_late(message, True, session, deadline)
        except LinkLost:
            return  # it is replayed, or the commit tells

    def tx_select(self) -> Any:
        """As pika's. A channel that is in confirm mode is opened anew for it."""
        if self._connection._fanout is not None:
            raise ConfigurationError("fanout: has no transactions over several brokers")
        with self._session.lock:
            self._raise_if_not_open()
            if self._log is None and self._link is not None and self._link.is_confirming:
                self._reopen_for_transactions()
                return frame.Method(self.number, spec.Tx.SelectOk())
            answer = self._exchange_for_good(
                lambda link: link.ask(spec.Tx.Select(), spec.Tx.SelectOk), "Tx.Select"
            )
            if self._log is None:
                self._log = self._new_log()
            return answer.answer

    def _is_in_transaction(self) -> bool:
        """Whether the link carries messages that no commit has settled."""
        log = self._log
        return log is not None and not log.is_empty and not log.is_doomed

    def _new_log(self) -> TransactionLog[OutMessage]:
        return TransactionLog(replays=self._session.options.track_transaction_producers)

    def _reopen_for_transactions(self) -> None:
        session = self._session
        deadline = session.deadline()
        self._log = self._new_log()  # from now on a restored channel is in tx mode
        while True:
            try:
                wire = session.usable(deadline)
                if not self._open_link().is_confirming:
                    return
                session.run(self._reopening(wire), wire, deadline)
                return
            except LinkLost:
                continue
            except DeadlinePassed:
                session.leave_because("no answer to Tx.Select within timeout")
                raise timed_out("Tx.Select", session, deadline) from None
            except RestoreFailed as exc:
                session.leave_because(str(exc))
                raise exc.cause from None

    def _reopening(self, wire: Wire) -> Iterator[Step]:
        yield self._open_link().close(200, "opened anew for transactions").is_over, float("inf")
        self._forget_deliveries()
        yield from restoring.channels(wire, [cast(Restored, self)], 0.0)

    def tx_commit(self) -> Any:
        """As pika's; raises TransactionRolledBack for what a failover has made impossible.

        And why the broker closed the channel, also when that was noticed before this call.
        """
        session, log = self._session, self._log
        with session.lock:
            self._raise_if_closed_by_broker()
            self._raise_if_not_open()
            if log is None:  # the broker's error to tell
                return self._request(spec.Tx.Commit(), spec.Tx.CommitOk)
            thread = threading.get_ident()
            try:
                return self._commit_or_tell(log, session.deadline())
            finally:
                session.over.add(thread)
                session.end()

    def _commit_or_tell(self, log: TransactionLog[OutMessage], deadline: Deadline) -> Any:
        verdicts = Verdicts()
        while True:
            self._session.leave_if_lost()
            if log.doom is not None:
                doom, keys = log.doom, log.keys
                self.tx_rollback()
                state = "is in doubt" if doom.is_in_doubt else "was rolled back"
                raise TransactionRolledBack(
                    f"the transaction {state}: {doom.reason}",
                    message_ids=keys,
                    is_in_doubt=doom.is_in_doubt,
                )
            try:
                return self._commit(log, deadline)
            except LinkLost as lost:
                if culprit := verdicts.note(lost.cause, lost.convicts()):
                    log.ended()
                    raise culprit from None

    def _commit(self, log: TransactionLog[OutMessage], deadline: Deadline) -> Any:
        session = self._session
        try:
            wire = session.begin(deadline)
        except DeadlinePassed:
            raise timed_out("Tx.Commit", session, deadline) from None
        wire.serve()  # a loss that can be seen before the commit is written leaves no doubt
        if wire.lost is not None:
            raise wire.lost
        link = self._open_link()
        if log.is_doomed:
            raise LinkLost("doomed by the loss")
        log.committing()
        ask = link.ask(spec.Tx.Commit(), spec.Tx.CommitOk)
        if not session.wait(wire, ask.is_over, deadline.moment):
            wire.sever("no answer to Tx.Commit within timeout")
            log.ended()
            raise timed_out("Tx.Commit, which is in doubt,", session, deadline)
        log.ended()
        self._settled_in_transaction.clear()
        if ask.failed is not None:
            raise ask.failed
        return ask.answer

    def tx_rollback(self) -> Any:
        """As pika's; without a broker it is over at once, as there is nothing to roll back."""
        session, log = self._session, self._log
        with session.lock:
            self._raise_if_not_open()
            if log is None:
                return self._request(spec.Tx.Rollback(), spec.Tx.RollbackOk)
            log.ended()
            self._unsettled |= self._settled_in_transaction
            self._settled_in_transaction.clear()
            wire, link = session.wire, self._link
            if wire is None or link is None:
                return frame.Method(self.number, spec.Tx.RollbackOk())
            deadline = session.deadline()
            ask = link.ask(spec.Tx.Rollback(), spec.Tx.RollbackOk)
            try:
                if not session.wait(wire, ask.is_over, deadline.moment):
                    wire.sever("no answer to Tx.Rollback within timeout")
            except LinkLost:
                pass  # the broker rolls back what it has
            if ask.failed is not None:
                raise ask.failed
            return ask.answer or frame.Method(self.number, spec.Tx.RollbackOk())

    def _replay(self, link: LinkChannel) -> None:
        """Write an open transaction again, on a new link."""
        if self._log is not None:
            for message in self._log.replay:
                link.publish(message)
