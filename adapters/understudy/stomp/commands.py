"""The commands beside plain sends: subscribing, acknowledging, transactions.

Rules
* SUBSCRIBE and COMMIT wait for the broker's answer, as long as ``timeout`` says. Everything else
  is written, or, while there is no connection, recorded or left out as the rules below say.
* A subscription is restored until it is unsubscribed. A refused one is forgotten.
* An acknowledgement is written to the connection that its delivery came on, or dropped and counted.
* An open transaction is begun again on the next connection with the messages sent in it; one that
  cannot be is rolled back when it is committed. See `core.transaction`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from understudy.failover.deadline import Deadline
from understudy.failover.notifier import logger
from understudy.stomp.dispatcher import receipt_job
from understudy.stomp.errors import CommandRefused, SendTimeout, TransactionRolledBack
from understudy.stomp.inner import Inner
from understudy.stomp.message import OutMessage
from understudy.stomp.session import Session
from understudy.stomp.subscriptions import Command, Subscription, Transaction, to_be_acked
from understudy.stomp.turns import SLICE
from understudy.stomp.wire import WireBroken
from understudy.wire.stomp import encode

if TYPE_CHECKING:
    from understudy.failover.waiters import Waiter

__all__ = ["Commands"]


class Commands:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._version = session.handshake.version
        self._told: set[str] = set()  # what was logged once

    # --- subscriptions --------------------------------------------------------------------------

    def subscribe(self, headers: Mapping[str, Any], deadline: Deadline) -> None:
        """Return when the broker has it. Raises CommandRefused, SendTimeout."""
        session = self._session
        session.check_reentry()
        subscription = Subscription(headers)
        with session.lock:
            session.check_open()
            known = session.subscriptions.get(subscription.id)
            if known is not None:
                if known.headers == subscription.headers:
                    return  # a program's own reconnecting asks again for what was restored
                raise CommandRefused(
                    f"a subscription with the id {subscription.id!r} exists already, to "
                    f"{known.headers.get('destination')!r}; unsubscribe it first"
                )
            session.want()
            session.subscriptions[subscription.id] = subscription
            link = session.link
            command = None if link is None else self._try(session.write_subscribe, subscription)
        if command is not None and link is not None:
            try:
                self._wait_ended(command, deadline)
            except BaseException:
                self._forget(subscription)
                raise
            if command.is_done:
                session.subscribed(subscription, command, link)
        self._wait_restored(subscription, deadline)

    def _wait_restored(self, subscription: Subscription, deadline: Deadline) -> None:
        def is_decided() -> bool:
            return subscription.is_active or subscription.error is not None

        try:
            in_time = self._wait(subscription.bell, is_decided, deadline)
        except BaseException:
            self._forget(subscription)
            raise
        if not in_time:
            self._forget(subscription)
            raise self._late(f"the subscription to {subscription.headers['destination']}", deadline)
        if subscription.error is not None:
            raise subscription.error

    def _forget(self, subscription: Subscription) -> None:
        self.unsubscribe({"id": subscription.id})

    def unsubscribe(self, headers: Mapping[str, Any]) -> None:
        session = self._session
        said = dict(headers)
        receipt = said.pop("receipt", None)
        name = str(said.get("id", said.get("destination")))
        with session.lock:
            subscription = session.subscriptions.pop(name, None)
            link = session.reader.inner
            if subscription is None or link is None or subscription.link is not link:
                self._pretend(receipt)
                return
            self._write(link, "UNSUBSCRIBE", said, receipt)

    # --- acknowledgements -----------------------------------------------------------------------

    def acknowledge(self, name: str, headers: Mapping[str, Any]) -> None:
        """ACK and NACK."""
        session = self._session
        said = dict(headers)
        receipt = said.pop("receipt", None)
        key = "message-id" if self._version == "1.1" else "id"
        ack_id = str(said.get(key))
        with session.lock:
            transaction = self._transaction(said)
            link = session.reader.inner
            if link is None or ack_id not in link.unacked:
                session.stale_acks += 1
                if transaction is not None:
                    transaction.log.stale_ack()
                return
            if name == "NACK":
                self._check_nack(link)
            if transaction is not None and not link.dialect.acks_in_transactions:
                told = f"{link.dialect.name} acknowledges at once what is acknowledged in"
                self._tell_once(f"{told} a transaction")
            owner = session.subscriptions.get(link.unacked[ack_id])
            expand = link.dialect.cumulative_over_connection
            for one in [*to_be_acked(link.unacked, ack_id, owner)]:
                taken = link.unacked.pop(one)
                if transaction is not None:
                    transaction.log.acked()
                    transaction.acked[one] = taken
                if one == ack_id or expand:
                    asked = receipt if one == ack_id else None
                    self._write(link, name, {**said, key: one}, asked)

    def _check_nack(self, link: Inner) -> None:
        dialect = link.dialect
        if dialect.nack_loses:
            raise CommandRefused(
                f"NACK on {dialect.name} {dialect.nack_surprise}; unsubscribe instead, and the "
                "broker delivers it again"
            )
        if dialect.nack_surprise:
            self._tell_once(f"NACK on {dialect.name} {dialect.nack_surprise}")

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            logger.warning(text)

    # --- transactions ---------------------------------------------------------------------------

    def begin(self, headers: Mapping[str, Any]) -> None:
        session = self._session
        replays = session.options.track_transaction_producers
        transaction = Transaction(str(headers["transaction"]), headers, replays=replays)
        with session.lock:
            session.check_open()
            if transaction.name in session.transactions:
                raise CommandRefused(f"the transaction {transaction.name!r} has begun already")
            session.transactions[transaction.name] = transaction
            link = session.link
            if link is not None:
                transaction.link = link
                self._write(link, "BEGIN", transaction.headers, transaction.receipt)

    def send(self, message: OutMessage) -> None:
        """A message of a transaction: written, and remembered until the transaction ends."""
        session = self._session
        with session.lock:
            session.check_open()
            transaction = self._transaction(message.headers)
            assert transaction is not None
            if transaction.log.is_doomed:
                return
            transaction.log.sent(message, message.key)
            link = session.link
            if link is None or transaction.link is not link:
                return  # restored with the transaction
            receipt = session.transaction_receipt(transaction, link)
            self._try_send(link, message.frame(link.dialect, receipt))
            self._pretend(message.receipt)

    def commit(self, headers: Mapping[str, Any], deadline: Deadline) -> None:
        """Return when the broker has committed. TransactionRolledBack, CommandRefused."""
        session = self._session
        session.check_reentry()
        transaction = self._ending(headers)
        with session.lock:
            session.want()
        command = self._write_commit(transaction, headers, deadline)
        while (done := self._wait_ended(command, deadline)) and command.is_lost:
            command = self._write_commit(transaction, headers, deadline)  # or raises: doomed
        if done and command.error is None:
            done = self._wait(transaction.bell, lambda: not transaction.awaited, deadline)
            if transaction.log.is_doomed:
                raise self._rolled_back(transaction)
        with session.lock:
            session.transactions.pop(transaction.name, None)
            transaction.log.ended()
        if not done:
            raise self._late(f"the commit of {transaction.name}", deadline, written=True)
        if command.error is not None:
            raise command.error

    def _write_commit(
        self, transaction: Transaction, headers: Mapping[str, Any], deadline: Deadline
    ) -> Command:
        session = self._session
        said = dict(headers)
        receipt = said.pop("receipt", None)
        if not self._wait_begun(transaction, deadline):
            with session.lock:
                session.transactions.pop(transaction.name, None)
            raise self._late(f"the commit of {transaction.name}", deadline)
        with session.lock:
            link = session.link
            if transaction.log.is_doomed:
                if link is not None and transaction.link is link:
                    link.unacked = {**transaction.acked, **link.unacked}
                    self._write(link, "ABORT", {"transaction": transaction.name}, None)
                raise self._rolled_back(transaction)
            if link is None:
                lost = Command("COMMIT")  # not the session's: it waits for no answer
                lost.lose()
                return lost
            number, command = session.command("COMMIT", receipt)
            transaction.log.committing()
            self._try_send(
                link, encode("COMMIT", {**said, "receipt": number}, version=self._version)
            )
            return command

    def abort(self, headers: Mapping[str, Any]) -> None:
        session = self._session
        transaction = self._ending(headers)
        with session.lock:
            session.transactions.pop(transaction.name, None)
            transaction.log.ended()
            link = session.reader.inner
            if link is None or transaction.link is not link:
                self._pretend(headers.get("receipt"))
                return
            link.unacked = {**transaction.acked, **link.unacked}  # `ack:client` goes by their order
            said = dict(headers)
            self._write(link, "ABORT", said, said.pop("receipt", None))

    def _transaction(self, headers: Mapping[str, Any]) -> Transaction | None:
        """The one that these headers name; the lock is held."""
        name = headers.get("transaction")
        if name is None:
            return None
        transaction = self._session.transactions.get(str(name))
        if transaction is None:
            raise CommandRefused(f"no transaction {name!r} has begun on this connection")
        return transaction

    def _ending(self, headers: Mapping[str, Any]) -> Transaction:
        with self._session.lock:
            transaction = self._transaction(headers)
        assert transaction is not None
        return transaction

    def _rolled_back(self, transaction: Transaction) -> TransactionRolledBack:
        with self._session.lock:
            self._session.transactions.pop(transaction.name, None)
        doom = transaction.log.doom
        assert doom is not None
        state = " (in doubt: the broker may have committed it)" if doom.is_in_doubt else ""
        return TransactionRolledBack(
            f"transaction {transaction.name} was rolled back: {doom.reason}{state}",
            message_ids=transaction.log.keys,
            is_in_doubt=doom.is_in_doubt,
        )

    # --- helpers; the lock is held --------------------------------------------------------------

    def _write(
        self, link: Inner, name: str, headers: Mapping[str, Any], receipt: str | None
    ) -> None:
        """Write a command; its receipt, if the application asked for one, is passed on."""
        said = dict(headers)
        if receipt is not None:
            number, _ = self._session.command(name, receipt)
            said["receipt"] = number
        self._try_send(link, encode(name, said, version=self._version))

    def _try_send(self, link: Inner, data: bytes) -> None:
        with contextlib.suppress(WireBroken):  # its reader finds it, and restores what is needed
            link.send(data)

    def _try(self, write: Callable[..., Command], subscription: Subscription) -> Command | None:
        link = self._session.link
        try:
            return write(subscription, link)
        except WireBroken:
            return None

    def _pretend(self, receipt: Any) -> None:
        """What was asked for has come true without the broker: it forgot us, or waits for it."""
        if receipt is not None:
            self._session.dispatcher.put([receipt_job(str(receipt))])

    # --- waiting, with no lock held -------------------------------------------------------------

    def _wait(self, bell: Waiter, is_so: Callable[[], bool], deadline: Deadline) -> bool:
        while not is_so():
            left = deadline.remaining()
            if left <= 0:
                return False
            bell.wait(min(left, SLICE))
            if not is_so():
                self._session.raise_if_hopeless()
                self._session.hurry()
        return True

    def _wait_begun(self, transaction: Transaction, deadline: Deadline) -> bool:
        """Until the transaction is on the link in use, or doomed."""
        session = self._session

        def is_decided() -> bool:
            link = session.link
            return transaction.log.is_doomed or (link is not None and transaction.link is link)

        return session.wait_for(is_decided, deadline)

    def _wait_ended(self, command: Command, deadline: Deadline) -> bool:
        return self._wait(command.bell, lambda: command.is_over, deadline)

    def _late(self, what: str, deadline: Deadline, written: bool = False) -> SendTimeout:
        return SendTimeout(
            f"{what} did not finish within timeout={(deadline.seconds or 0) * 1000:.0f} ms",
            written=written,
            attempts=self._session.supervisor.attempts,
        )
