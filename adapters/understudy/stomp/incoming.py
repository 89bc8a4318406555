"""What becomes of the frames that come in; called by whoever reads, one at a time.

Blame for an ERROR: a message or command that it names by receipt-id is refused. RabbitMQ names
none: then it is the only thing that waits for an answer, if there is only one; if there are several
and messages among them, the connection is left and the outbox finds out (`OverMessage`).

Who waits for a frame is told before he is forgotten: a signal handler may raise in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stomp.utils import Frame

from understudy.failover.message_ids import OVERHEAD
from understudy.stomp.dispatcher import Job, receipt_job
from understudy.stomp.errors import CommandRefused
from understudy.stomp.inner import Inner
from understudy.stomp.sender import RECEIPT
from understudy.wire.stomp import HEARTBEAT, ProtocolError, RawFrame
from understudy.wire.stomp_login import error_text

if TYPE_CHECKING:
    from understudy.stomp.session import Session

__all__ = ["Incoming", "OverMessage"]

DIGITS = 18  # of a receipt of ours; Python refuses to read numbers that are very long


class OverMessage(Exception):
    """The broker sent an ERROR that may be about one of several messages; the link is left."""


class Incoming:
    def __init__(self, session: Session, decode: Callable[[bytes], Any]) -> None:
        self._session = session
        self._decode = decode
        self._ack_header = "message-id" if session.handshake.version == "1.1" else "ack"

    def take(self, inner: Inner, frames: list[RawFrame]) -> None:
        """Raises ProtocolError for what no broker sends, and OverMessage."""
        jobs: list[Job] = []
        try:
            for frame in frames:
                command = frame.command
                if command == "MESSAGE":
                    self._message(inner, frame, jobs)
                elif command == "RECEIPT":
                    self._receipt(inner, frame, jobs)
                elif command == "ERROR":
                    self._error(frame, jobs)
                elif command != HEARTBEAT:
                    raise ProtocolError(f"the broker sent {command[:40]!r}")
                elif self._session.transport.has_listener_for("heartbeat"):
                    jobs.append(("heartbeat", (), 0, None))
        finally:
            if jobs:
                self._session.dispatcher.put(jobs)

    def shown(self, frame: RawFrame) -> Frame:
        """As stomp.py's listeners know it."""
        return Frame(frame.command, frame.headers, self._decode(frame.body))

    def _message(self, inner: Inner, frame: RawFrame, jobs: list[Job]) -> None:
        headers = frame.headers
        name = headers.get("subscription", "")
        subscription = self._session.subscriptions.get(name)
        counts: Callable[[], bool] = inner.is_sane
        # one of a subscription that ended meanwhile, or that RabbitMQ made (/temp-queue/)
        is_auto = "ack" not in headers if subscription is None else subscription.is_auto
        if not is_auto:
            with self._session.lock:  # `Commands.acknowledge` goes through them
                inner.unacked[headers.get(self._ack_header, "")] = name
            counts = inner.is_current
        if is_message(headers.get("receipt", "")):
            del headers["receipt"]  # RabbitMQ passes on what the sender's adapter asked for
        shown = self.shown(frame)
        jobs.append(("message", (shown,), frame.size + OVERHEAD, counts))

    def _receipt(self, inner: Inner, frame: RawFrame, jobs: list[Job]) -> None:
        session = self._session
        name = frame.headers.get("receipt-id", "")
        if is_message(name):
            with session.lock:
                confirmed = session.sender.receipt(int(name[1:]), inner)
            jobs += [receipt_job(one.receipt) for one in confirmed if one.receipt is not None]
            return
        with session.lock:
            transaction = session.promised.get(name)
            if transaction is not None:
                transaction.awaited.discard(name)
                transaction.bell.ring()
                session.promised.pop(name)
            command = session.commands.get(name)
            if command is not None:
                if command.receipt is not None:
                    jobs.append(receipt_job(command.receipt))
                command.end()
                session.commands.pop(name)

    def _error(self, frame: RawFrame, jobs: list[Job]) -> None:
        session = self._session
        name = frame.headers.pop("receipt-id", "")
        text = error_text(frame)
        receipt = None
        with session.lock:
            in_flight = session.sender.outbox.in_flight
            if name not in session.commands and not in_flight and len(session.commands) == 1:
                name = next(iter(session.commands))
            command = session.commands.get(name)
            if is_message(name):
                receipt = session.sender.refused(int(name[1:]), text)
            elif command is not None:
                receipt = command.receipt
                command.end(CommandRefused(f"{command.name} was refused: {text}"))
                session.commands.pop(name)
            elif in_flight or session.commands:
                jobs.append(("error", (self.shown(frame),), frame.size + OVERHEAD, None))
                raise OverMessage(text)
        if receipt is not None:
            frame.headers["receipt-id"] = receipt
        jobs.append(("error", (self.shown(frame),), frame.size + OVERHEAD, None))


def is_message(receipt: str) -> bool:
    """Whether it is the receipt of a message, as `sender` numbers them."""
    number = receipt[1:]
    short = len(number) <= DIGITS
    return short and receipt.startswith(RECEIPT) and number.isascii() and number.isdigit()
