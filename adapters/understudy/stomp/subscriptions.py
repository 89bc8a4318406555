"""Subscriptions and transactions of one connection: what a lost link leaves to be done again.

Pure records; the session changes them under its lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from understudy.core.transaction import TransactionLog
from understudy.failover.waiters import Waiter
from understudy.stomp.arguments import check_ack_mode
from understudy.stomp.inner import Inner
from understudy.stomp.message import OutMessage
from understudy.wire.stomp import encode
from understudy.wire.stomp_dialects import Dialect

__all__ = ["Command", "Subscription", "Transaction", "to_be_acked"]


class Command:
    """A frame that is no message and whose receipt, or refusal, somebody wants to know."""

    def __init__(self, name: str, receipt: str | None = None) -> None:
        self.name = name
        self.receipt = receipt  # what the application asked for
        self.error: Exception | None = None
        self.is_done = False
        self.is_lost = False  # the link broke before the answer
        self.bell = Waiter()

    @property
    def is_over(self) -> bool:
        return self.is_done or self.is_lost

    def end(self, error: Exception | None = None) -> None:
        """Its answer has come, or never will; the first one counts."""
        if self.is_done:
            return
        self.error = error
        self.is_done = True
        self.bell.ring()

    def lose(self) -> None:
        self.is_lost = not self.is_done
        self.bell.ring()


class Subscription:
    def __init__(self, headers: Mapping[str, Any]) -> None:
        said = dict(headers)
        self.receipt: str | None = said.pop("receipt", None)
        self.headers = said
        self.id = str(said.get("id", said.get("destination")))
        self.mode = str(said.get("ack", "auto"))
        check_ack_mode(self.mode)
        self.link: Inner | None = None  # where it is known to the broker, or on its way
        self.is_active = False  # the broker has said so
        self.error: Exception | None = None
        self.refused_by: set[str] = set()  # addresses, since it was last active
        self.bell = Waiter()

    @property
    def is_auto(self) -> bool:
        """Whether a delivery is its own acknowledgement."""
        return self.mode == "auto"

    def frame(self, dialect: Dialect, receipt: str, version: str) -> bytes:
        headers = {
            **self.headers,
            "destination": dialect.destination(str(self.headers["destination"])),
            "receipt": receipt,
        }
        if dialect.cumulative_over_connection and self.mode == "client":
            headers["ack"] = "client-individual"  # the session acknowledges one by one
        return encode("SUBSCRIBE", headers, version=version)


class Transaction:
    def __init__(self, name: str, headers: Mapping[str, Any], *, replays: bool) -> None:
        said = dict(headers)
        self.receipt: str | None = said.pop("receipt", None)
        self.name = name
        self.headers = said
        self.log: TransactionLog[OutMessage] = TransactionLog(replays=replays)
        self.link: Inner | None = None  # where it was begun
        self.awaited: set[str] = set()  # receipts of its messages that have not come
        self.acked: dict[str, str] = {}  # on this link; what an abort gives back
        self.bell = Waiter()

    def link_lost(self) -> None:
        self.log.link_lost()
        self.link = None
        self.awaited.clear()
        self.acked.clear()
        self.bell.ring()


def to_be_acked(
    unacked: Mapping[str, str], ack_id: str, subscription: Subscription | None
) -> Iterator[str]:
    """The deliveries that an acknowledgement of ``ack_id`` is for, in order, itself included.

    In the mode ``client`` these are all of the same subscription up to it.
    """
    if subscription is not None and subscription.mode == "client":
        for earlier, owner in unacked.items():
            if earlier == ack_id:
                break
            if owner == subscription.id:
                yield earlier
    yield ack_id
