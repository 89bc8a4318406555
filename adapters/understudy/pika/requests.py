"""What every part of a channel is built on: its link, and requests that survive the broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pika import exceptions

from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.supervisor import Supervisor
from understudy.pika.errors import SendTimeout, refused
from understudy.pika.link import Link
from understudy.pika.link_channel import Ask, LinkChannel, LinkLost
from understudy.pika.message import OutMessage
from understudy.pika.restoring import REPLIES
from understudy.pika.session import Session
from understudy.pika.wire import Wire

if TYPE_CHECKING:
    from understudy.pika.connection import BlockingConnection

__all__ = [
    "HIGH_WATER",
    "Requests",
    "Verdicts",
    "answered",
    "check_size",
    "is_held",
    "timed_out",
    "too_late",
]

VERDICTS = 2  # channels and connections that one call may cost before it counts as the culprit
HIGH_WATER = 2**18  # bytes that may wait for a slow socket before nothing more is written


class Verdicts:
    """How often a broker has closed the channel or the connection over one call."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, cause: Exception | None, counts: bool = True) -> Exception | None:
        """One more, if it ``counts``; the cause, when the call has to end with it."""
        self._count += counts
        return cause if self._count >= VERDICTS else None


class Requests:
    """A channel's identity over all links, and its present link."""

    def __init__(self, connection: BlockingConnection, session: Session, number: int) -> None:
        self._connection = connection
        self._session = session
        self.number = number
        self._link: LinkChannel | None = None  # None until it is open on the present wire
        self._fresh: LinkChannel | None = None  # being restored
        self.is_kept = False  # it comes with every new wire: once it has been open
        self._is_closed = False
        self._closing_reason: Exception | None = None

    def _raise_if_not_open(self) -> None:
        if self._is_closed:
            raise exceptions.ChannelWrongStateError("Channel is closed.")

    def _raise_if_closed_by_broker(self) -> None:
        if isinstance(self._closing_reason, exceptions.ChannelClosedByBroker):
            raise self._closing_reason

    def _open_link(self) -> LinkChannel:
        """The link, on a usable wire; raises why the broker closed it during this call."""
        self._raise_if_closed_by_broker()
        self._raise_if_not_open()
        assert self._link is not None
        return self._link

    def _request(self, method: Any, reply: type) -> Any:
        """Ask the broker, whichever that is by then; what succeeded is remembered.

        Raises the broker's own refusal, and SendTimeout.
        """
        session = self._session
        with session.lock:
            self._raise_if_not_open()
            is_restored = type(method) in REPLIES
            exchange = self._exchange_for_good if is_restored else self._exchange
            answer = exchange(lambda link: link.ask(method, reply), method.NAME)
            session.topology.note(method)
            return answer.answer

    def declare_again(self, method: Any) -> None:
        """What was declared on another broker, on this one too."""
        self._request(method, REPLIES[type(method)])

    def _exchange_for_good(self, begin: Callable[[LinkChannel], Ask], name: str) -> Ask:
        """A request that every later link has to be asked too, from the caller's next line on.

        Another thread may have read the answer, noticed the loss, and restored the channel without
        it, before the caller runs again: then it is asked once more.
        """
        asked: list[LinkChannel] = []

        def ask(link: LinkChannel) -> Ask:
            asked.append(link)
            return begin(link)

        while True:
            answer = self._exchange(ask, name)
            if is_held(asked[-1], self._link, self._fresh):
                return answer

    def _exchange(self, begin: Callable[[LinkChannel], Ask], name: str) -> Ask:
        """With the lock held: have a request answered."""
        session = self._session
        return answered(session, lambda wire: begin(self._open_link()), name, session.deadline())


def is_held(asked: LinkChannel, link: LinkChannel | None, fresh: LinkChannel | None) -> bool:
    """Whether what was asked on a link holds on the present one, or will be asked there again."""
    is_to_be_restored = link is None and fresh is None
    return asked is link or is_to_be_restored


def answered(session: Session, begin: Callable[[Wire], Ask], name: str, deadline: Deadline) -> Ask:
    """With the lock held: have a request answered, begun anew on each wire that it takes."""
    verdicts, thread = Verdicts(), threading.get_ident()
    try:
        while True:
            try:
                wire = session.begin(deadline)
                ask = begin(wire)
                if not session.wait(wire, ask.is_over, deadline.moment):
                    wire.sever(f"no answer to {name} within timeout")  # it would be another's
                    raise DeadlinePassed
            except LinkLost as lost:
                if culprit := verdicts.note(lost.cause, lost.convicts()):
                    raise culprit from None
            else:
                if ask.failed is not None:
                    raise ask.failed
                return ask
    except DeadlinePassed:
        raise timed_out(name, session, deadline) from None
    finally:
        session.over.add(thread)
        session.end()


class Supervised(Protocol):
    @property
    def supervisor(self) -> Supervisor[Wire]: ...


def timed_out(name: str, session: Supervised, deadline: Deadline) -> SendTimeout:
    limit = (deadline.seconds or 0) * 1000
    text = f"{name} did not finish within timeout={limit:.0f} ms"
    return SendTimeout(text, attempts=session.supervisor.attempts)


def too_late(
    message: OutMessage, written: bool, session: Supervised, deadline: Deadline
) -> SendTimeout:
    state = "in doubt: it may have reached a broker" if written else "never sent"
    limit = (deadline.seconds or 0) * 1000
    return SendTimeout(
        f"message {message.message_id} was not confirmed within timeout={limit:.0f} ms ({state})",
        message_id=message.message_id,
        written=written,
        attempts=session.supervisor.attempts,
    )


def check_size(message: OutMessage, link: Link) -> None:
    """Refuse what no broker of these limits could take; a link would be lost over it."""
    if message.header_size > link.frame_max:
        text = f"its properties take {message.header_size} bytes, above {link.frame_max}"
        raise refused(ValueError(text), message.message_id)
