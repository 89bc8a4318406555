"""Publishing that survives the broker: confirmed one by one, in the caller's thread.

Rules
* One publisher for each kombu connection of the application. It borrows that connection as long
  as the application does not read from it; otherwise, and after a loss, it has its own. The
  application's next connect adopts it. So a lost consumer sees its loss, and a lost publisher
  does not.
* A message whose confirm did not come before the link broke is sent again with the same id, marked
  as a resend. It is given up only at the deadline, or when sending it made brokers close the
  connection twice.
* A signal handler that publishes on the connection whose publish it interrupted gets a connection
  of its own for that: on the other's it could write within a frame, or read the other's confirm.
* A call that is interrupted (a signal, a soft time limit) drops the link: half a frame may be out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import amqp

from understudy import errors
from understudy.failover import forking
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.kombu.amqp import INTERRUPTED
from understudy.kombu.errors import CLOSED, ConnectionLost, SendTimeout, refused
from understudy.kombu.inner import GOODBYE, Inner
from understudy.kombu.link import Link, LinkBroken, open_link
from understudy.kombu.message import OutMessage, Publication
from understudy.kombu.topology import Declaration
from understudy.kombu.ways import Ways

if TYPE_CHECKING:
    from understudy.kombu.transport import Transport

__all__ = ["Publisher"]

T = TypeVar("T")

POISON_CLOSES = 2  # connections that one message may cost before it counts as the culprit


class Publisher:
    def __init__(self, transport: Transport, *, may_borrow: bool = True) -> None:
        self._transport = transport
        self._may_borrow = may_borrow
        self._user: int | None = None  # the thread that is in here
        self._lock = threading.RLock()
        self._link: Link | None = None
        broker = transport.broker
        self._ways = Ways(broker.topology, broker.supervisor.notifier)
        forking.register(self)

    @property
    def inner(self) -> Inner | None:
        """The connection in use."""
        return None if self._link is None else self._link.inner

    def publish(self, publication: Publication, deadline: Deadline) -> None:
        """Return when a broker has confirmed. Raises SendTimeout, Refused, Unroutable."""
        if self._user == threading.get_ident():
            with self._another() as other:
                other.publish(publication, deadline)
            return
        message = publication.message
        closes = 0
        written = False

        def send(link: Link) -> None:
            nonlocal written
            self._ways.prepare(
                publication.exchange,
                publication.routing_key,
                self._transport.broker.supervisor.epoch_of(link.inner),
                lambda call: link.declare(call, deadline),
            )
            if written:
                message.mark_resend()
            written = True
            link.send(publication, deadline)

        def broken(exc: LinkBroken) -> None:
            nonlocal closes
            closes += exc.by_peer
            if closes >= POISON_CLOSES:
                raise refused(exc.__cause__ or exc, message.message_id) from exc

        try:
            self._on_a_link(send, broken, deadline)
        except DeadlinePassed:
            if self.inner is not None:
                self.inner.is_suspect = True
            raise self._timed_out(message, written, deadline) from None

    def declare(self, call: Declaration, deadline: Deadline) -> Any:
        """Do a declaration on whatever broker is current; raises the host's own refusal."""
        if self._user == threading.get_ident():
            with self._another() as other:
                return other.declare(call, deadline)
        try:
            return self._on_a_link(
                lambda link: link.declare(call, deadline), lambda exc: None, deadline
            )
        except DeadlinePassed:
            text = f"{call.method} did not finish within timeout={self._limit(deadline)} ms"
            raise SendTimeout(text, attempts=self._transport.broker.attempts) from None

    def close(self) -> Inner | None:
        """Let go of the link; returns its connection.

        A send that another thread is in keeps it, and ends if the transport is closed.
        """
        if not self._lock.acquire(blocking=False):
            inner = self.inner or self._opening
            if inner is not None and self._transport.is_closed:
                inner.sever(CLOSED)
            return None
        try:
            link, self._link = self._link, None
        finally:
            self._lock.release()
        return None if link is None else link.inner

    @contextlib.contextmanager
    def _another(self) -> Iterator[Publisher]:
        """For a call that has interrupted another one in here."""
        other = Publisher(self._transport, may_borrow=False)
        try:
            yield other
        finally:
            inner = other.close()
            if inner is not None:
                self._transport.broker.supervisor.released(inner)
                inner.close(GOODBYE)

    # --- links ----------------------------------------------------------------------------------

    def _on_a_link(
        self,
        use: Callable[[Link], T],
        broken: Callable[[LinkBroken], None],
        deadline: Deadline,
    ) -> T:
        with self._lock:
            self._user = threading.get_ident()
            try:
                while True:
                    try:
                        return use(self._usable_link(deadline))
                    except LinkBroken as exc:
                        if self._transport.is_closed:
                            self._drop()
                            raise ConnectionLost(CLOSED) from exc
                        self._give_up(str(exc))
                        broken(exc)
            except (DeadlinePassed, errors.UnderstudyError, amqp.exceptions.ChannelError):
                if self._opening is not None:
                    self._drop()  # its channel was being opened
                raise
            except BaseException:
                self._drop()
                raise
            finally:
                self._user = None

    def _usable_link(self, deadline: Deadline) -> Link:
        link = self._link
        if link is not None and link.inner.dead is None and link.inner.is_for_publishing:
            return link
        transport = self._transport
        self._link = None
        inner = transport.lend() if self._may_borrow else None
        inner = inner or transport.broker.acquire(deadline, transport.check_open)
        self._opening = inner
        self._link = open_link(inner, confirms=transport.broker.options.confirms, deadline=deadline)
        self._opening = None
        self._ways.forget()
        inner.belong_to(transport)
        return self._link

    _opening: Inner | None = None

    def _give_up(self, reason: str) -> None:
        """The link broke by itself: its endpoint is lost."""
        inner = self.inner or self._opening
        self._link = self._opening = None
        if inner is not None:
            self._transport.broker.supervisor.lost(inner, reason)

    def _drop(self) -> None:
        """The link is in an unknown state, but not through its endpoint's fault."""
        inner = self.inner or self._opening
        self._link = self._opening = None
        if inner is not None:
            self._transport.broker.supervisor.released(inner)
            inner.sever(INTERRUPTED)

    # --- errors ---------------------------------------------------------------------------------

    def _limit(self, deadline: Deadline) -> str:
        return "?" if deadline.seconds is None else f"{deadline.seconds * 1000:.0f}"

    def _timed_out(
        self, message: OutMessage, written: bool, deadline: Deadline
    ) -> errors.SendTimeout:
        state = "in doubt: it may have reached a broker" if written else "never sent"
        text = (
            f"message {message.label} was not confirmed within "
            f"timeout={self._limit(deadline)} ms ({state})"
        )
        return SendTimeout(
            text,
            message_id=message.message_id,
            written=written,
            attempts=self._transport.broker.attempts,
        )

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        """Nothing: a send may hold the lock for as long as a broker is away."""

    def let_go(self) -> None:
        """Nothing."""

    def abandon(self) -> None:
        self._lock = threading.RLock()
        self._link = self._opening = None
        self._ways.forget()
