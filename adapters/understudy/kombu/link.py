"""A connection on which messages are published and confirmed, one at a time.

Rules
* Our own channel, in confirm mode, on which nothing else happens: a refused message closes that
  channel and no other.
* `send` returns when the broker has confirmed. It raises Refused or Unroutable for the message,
  DeadlinePassed (a later confirm is then ignored), or `LinkBroken`.
* Any error that a broken or lying peer can cause is LinkBroken; an exception that comes from
  elsewhere (a signal, a soft time limit, a bug) passes through, and the publisher then drops the
  link, because a frame may have been cut in half.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import amqp

from understudy.errors import DeliveryFailed
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.interruptions import is_of_signal_handler, passing_over
from understudy.failover.monitor import monitor
from understudy.failover.notifier import logger
from understudy.kombu.errors import RefusedNacked, Unroutable, refused
from understudy.kombu.inner import Inner
from understudy.kombu.message import OutMessage, Publication, id_of
from understudy.kombu.publisher_channel import PublisherChannel, Unsendable
from understudy.kombu.topology import Declaration
from understudy.kombu.waiting import draining_until

__all__ = ["Link", "LinkBroken", "open_link"]

LOOK_PERIOD = 0.01  # s between two looks at what came, where nothing waits for it
FITS_IN_BUFFER = 16384  # bytes; one message in flight at a time, so this never blocks
UNBOUNDED = contextlib.nullcontext()


class LinkBroken(Exception):
    """The link is useless. ``by_peer``: the broker itself closed the connection, and said why."""

    def __init__(self, reason: str, by_peer: bool = False) -> None:
        super().__init__(reason)
        self.by_peer = by_peer


class Link(Protocol):
    inner: Inner

    def send(self, publication: Publication, deadline: Deadline) -> None: ...

    def declare(self, call: Declaration, deadline: Deadline) -> Any:
        """Do a declaration; raises the host's own channel error when it is refused."""


class AmqpLink:
    def __init__(self, inner: Inner, *, confirms: bool, deadline: Deadline) -> None:
        self.inner = inner
        self._confirms = confirms
        self._look_again = 0.0
        self._unconfirmed: set[int] = set()
        self._nacked: set[int] = set()
        self._returned: str | None = None
        self._current = ""  # the id of the message that is being sent
        self._admin: Any = None  # another channel of ours, for declarations
        self._channel = self._open_channel(deadline)

    def _open_channel(self, deadline: Deadline) -> PublisherChannel:
        self._unconfirmed.clear()
        self._nacked.clear()
        try:
            with draining_until(self.inner.raw, deadline):
                channel = PublisherChannel(
                    self.inner.raw, settled=self._settled, returned=self._on_returned
                )
                channel.start(confirms=self._confirms)
            return channel
        except TimeoutError as exc:
            if is_of_signal_handler(exc):
                raise
            raise DeadlinePassed from None
        except Exception as exc:
            if not self.inner.raw.explains(exc):
                raise
            raise LinkBroken(f"{type(exc).__name__}: {exc}") from exc

    def send(self, publication: Publication, deadline: Deadline) -> None:
        message = publication.message
        if not self._channel.is_open:
            self._channel = self._open_channel(deadline)
        self._returned = None
        self._current = message.message_id
        prepared = message.for_amqp()
        try:
            if not self._confirms:
                self._take_in_what_came()
            with self._bounded(len(message.body), deadline):
                tag = self._channel.write(
                    prepared,
                    publication.exchange,
                    publication.routing_key,
                    publication.mandatory,
                    publication.immediate,
                )
            if not self._confirms:
                return
            self._await_confirm(tag, deadline)
        except TimeoutError as exc:
            if is_of_signal_handler(exc):
                raise
            raise DeadlinePassed from None
        except (DeliveryFailed, DeadlinePassed):
            raise
        except Unsendable as exc:
            raise refused(exc.cause, message.message_id) from exc.cause
        except Exception as exc:
            if not self.inner.raw.explains(exc):
                raise
            if self._unconfirmed - {self._channel.last_tag} and self.inner.raw.connected:
                self._send_on_a_fresh_channel(publication, deadline)
                return
            self._translate(exc, message)
        self.inner.is_suspect = False
        self._raise_what_was_refused(tag, message)

    def _await_confirm(self, tag: int, deadline: Deadline) -> None:
        self._unconfirmed.add(tag)
        while tag in self._unconfirmed:
            deadline.check()
            with passing_over(TimeoutError):
                self._drain(deadline.timeout(), lambda: tag not in self._unconfirmed)

    def _send_on_a_fresh_channel(self, publication: Publication, deadline: Deadline) -> None:
        """Another message, whose sender has given up, may be why the broker closed the last one."""
        publication.message.mark_resend()
        self._channel = self._open_channel(deadline)
        self.send(publication, deadline)

    def _raise_what_was_refused(self, tag: int, message: OutMessage) -> None:
        if tag in self._nacked:
            self._nacked.discard(tag)
            text = f"message {message.label} was refused: the broker answered basic.nack"
            raise RefusedNacked(text, message_id=message.message_id)
        if self._returned is not None:
            text = f"message {message.label} reached no queue: {self._returned}"
            raise Unroutable(text, message_id=message.message_id)

    def _bounded(self, size: int, deadline: Deadline) -> Any:
        """A write that may fill the socket's buffer must end at the deadline too."""
        limit = math.inf if size < FITS_IN_BUFFER else deadline.remaining()
        if limit == math.inf:
            return UNBOUNDED
        return monitor.alarm(limit, lambda: self.inner.raw.sever("a write did not end in time"))

    def _drain(self, timeout: float | None, unless: Callable[[], bool] = lambda: False) -> None:
        try:
            self.inner.raw.drain_events(timeout=timeout, unless=unless)
        except amqp.exceptions.ChannelError:
            if not self._channel.is_open:
                raise
            logger.warning("the broker closed another channel of this connection", exc_info=True)

    def _take_in_what_came(self) -> None:
        """Without confirms nothing else reads: notice that the broker closed or blocked us."""
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again = now + LOOK_PERIOD
        while self.inner.raw.is_readable():
            with passing_over(TimeoutError):
                self._drain(0.0)

    def _translate(self, exc: Exception, message: OutMessage) -> None:
        raw = self.inner.raw
        if isinstance(exc, amqp.exceptions.ChannelError) and raw.connected:
            raise refused(exc, message.message_id) from exc
        if not raw.is_broken and self._channel.is_open:
            raise exc
        reason = raw.severed or f"{type(exc).__name__}: {exc}"
        raise LinkBroken(reason, raw.was_closed_over_a_message(exc)) from exc

    def _settled(self, tag: int, multiple: bool, ok: bool) -> None:
        tags = {t for t in self._unconfirmed if t <= tag or tag == 0} if multiple else {tag}
        if not ok:
            self._nacked |= tags & self._unconfirmed
        self._unconfirmed -= tags

    def _on_returned(self, message: Any, reason: str) -> None:
        if id_of(message) == self._current:  # else its sender has given up
            self._returned = reason

    def declare(self, call: Declaration, deadline: Deadline) -> Any:
        raw = self.inner.raw
        while True:
            try:
                with draining_until(raw, deadline):
                    if self._admin is None or not self._admin.is_open:
                        self._admin = PublisherChannel(
                            raw, settled=lambda *_: None, returned=lambda *_: None
                        )
                        self._admin.start(confirms=False)
                    return call.apply(self._admin)
            except amqp.exceptions.ChannelError:
                if not raw.connected:
                    raise LinkBroken(raw.severed or "connection closed") from None
                if not self._admin.is_open:
                    raise
                # else it was the publishing channel that was closed: ask again
            except TimeoutError as exc:
                if is_of_signal_handler(exc):
                    raise
                self.inner.sever("no answer to a declaration within timeout")
                raise DeadlinePassed from None
            except Exception as exc:
                if not raw.is_broken or not raw.explains(exc):
                    raise
                raise LinkBroken(raw.severed or f"{type(exc).__name__}: {exc}") from exc


class VirtualLink:
    """The same for kombu's virtual transports (Redis, SQS, …): a send that returned was taken."""

    def __init__(self, inner: Inner) -> None:
        self.inner = inner
        transport = inner.transport
        self._errors = tuple(transport.connection_errors)
        with self._translated():
            self._channel = plain_channel_class(transport)(inner.raw)
            transport.channels.append(self._channel)

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except self._errors as exc:
            if is_of_signal_handler(exc):
                raise
            raise LinkBroken(self.inner.dead or f"{type(exc).__name__}: {exc}") from exc

    def send(self, publication: Publication, deadline: Deadline) -> None:
        with self._until(deadline), self._translated():
            prepared = publication.message.for_channel(self._channel.prepare_message)
            self._channel.basic_publish(
                prepared, exchange=publication.exchange, routing_key=publication.routing_key
            )

    def declare(self, call: Declaration, deadline: Deadline) -> Any:
        with self._until(deadline), self._translated():
            return call.apply(self._channel)

    @contextlib.contextmanager
    def _until(self, deadline: Deadline) -> Iterator[None]:
        """These transports have no deadlines: at its end the connection is cut."""
        limit = deadline.remaining()
        if limit == math.inf:
            yield
            return
        try:
            with monitor.alarm(limit, lambda: self.inner.sever("no answer within timeout")):
                yield
        except LinkBroken:
            deadline.check()
            raise


def plain_channel_class(transport: Any) -> Any:
    """The transport's own channel class, not the application-side one of ours."""
    return type(transport).Channel


def open_link(inner: Inner, *, confirms: bool, deadline: Deadline) -> Link:
    """A publishing link on this connection; raises LinkBroken or DeadlinePassed."""
    if inner.is_amqp:
        return AmqpLink(inner, confirms=confirms, deadline=deadline)
    return VirtualLink(inner)
