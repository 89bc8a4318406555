"""Acknowledgements that never touch another message than their own.

Rules
* Delivery tags rise over all links: what the application sees is the broker's tag plus all tags of
  earlier links (`_offset`). An acknowledgement of an earlier link's delivery is dropped and
  counted: the broker has put that message back already, and its tag names another one now.
* "All so far" (tag 0, multiple) means all that the application was given, not what lies unseen in
  our buffer; so that nothing is acknowledged that nobody has looked at. It is written with the last
  tag that is not settled, because brokers close the channel over any other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from pika import spec

from understudy.core.transaction import TransactionLog
from understudy.pika.link_channel import LinkLost
from understudy.pika.requests import Requests

__all__ = ["Acknowledging"]

SETTLE = struct.Struct(">BHIIQBB")  # a whole frame with an ack, a nack or a reject
SIZE = 13
UNWRITTEN = 65536  # bytes of acknowledgements that may wait for a slow socket


class Acknowledging(Requests):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._offset = 0  # tags of earlier links
        self._highest = 0  # tag of this link
        self._taken = 0  # the highest tag that the application was given, with its offset
        self._unsettled: set[int] = set()  # tags of this link that wait for an acknowledgement
        self._settled_in_transaction: set[int] = set()  # tags of this link
        self._log: TransactionLog[Any] | None = None

    def _forget_tags(self) -> None:
        """The link is over: what has to be acknowledged comes again."""
        self._offset += self._highest
        self._highest = 0
        self._unsettled.clear()
        self._settled_in_transaction.clear()

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """As pika's; one of an earlier connection is dropped and counted."""
        self._settle(spec.Basic.Ack.INDEX, delivery_tag, multiple, 1 if multiple else 0)

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        """As pika's; one of an earlier connection is dropped and counted."""
        bits = (1 if multiple else 0) | (2 if requeue else 0)
        self._settle(spec.Basic.Nack.INDEX, delivery_tag, multiple, bits)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """As pika's; one of an earlier connection is dropped and counted."""
        self._settle(spec.Basic.Reject.INDEX, delivery_tag, False, 1 if requeue else 0)

    def _settle(self, method_id: int, tag: int, multiple: bool, bits: int) -> None:
        if not isinstance(tag, int):
            raise TypeError("delivery_tag must be an integer")
        session = self._session
        with session.lock:
            self._raise_if_not_open()
            session.check_open()
            is_all = tag == 0 and multiple
            if is_all:
                tag = self._taken
                if tag == 0:
                    return  # nothing was ever given out
            real = tag - self._offset if tag else 0
            wire = session.wire
            if real < 0 or (real == 0 and tag) or not self._can_settle():
                session.stale_acks += 1
                if self._log is not None:
                    self._log.stale_ack()
                return
            settled = {one for one in self._unsettled if one <= real} if multiple else {real}
            if is_all:
                if not settled:
                    return
                real = max(settled)
            self._unsettled -= settled
            if self._log is not None:
                self._log.acked()
                self._settled_in_transaction |= settled
            self._write_settle(method_id, real, bits)
            assert wire is not None
            if wire.unwritten > UNWRITTEN:
                self._let_flow(wire)

    def _can_settle(self) -> bool:
        """Whether there is a link with deliveries of its own, be other channels restored or not."""
        link = self._fresh or self._link
        return link is not None and link.is_open and link.link.lost is None

    def _write_settle(self, method_id: int, tag: int, bits: int) -> None:
        link = self._fresh or self._link
        assert link is not None
        link.link.write(SETTLE.pack(1, link.number, SIZE, method_id, tag, bits, spec.FRAME_END))

    def _give_back(self, deliveries: Iterable[Any]) -> None:
        """Have the broker put back what the application has not seen; one that is gone did so."""
        if not self._can_settle():
            return
        for event in deliveries:
            tag = event.method.delivery_tag - self._offset
            if tag > 0:
                self._unsettled.discard(tag)
                self._write_settle(spec.Basic.Reject.INDEX, tag, 1)

    def _let_flow(self, wire: Any) -> None:
        try:
            deadline = self._session.deadline()
            self._session.wait(wire, lambda: wire.unwritten <= UNWRITTEN, deadline.moment)
        except LinkLost:
            return  # the deliveries come again
