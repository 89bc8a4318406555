"""The sender's end of a connection: many messages on the way at once.

Rules
* Encoding collects frames in a buffer, `send` hands it to the socket in one call: one system call
  for a batch, not one for each message.
* `take_in` reads all that has come without ever blocking; confirms go straight to the outbox.
* Every error of the peer's is LinkBroken; ``by_peer`` only where a message may be the reason: the
  broker closed the channel or the connection with an error of that kind.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Protocol

import amqp

from understudy.core.outbox import Entry
from understudy.failover.deadline import NEVER
from understudy.kombu.inner import Inner
from understudy.kombu.link import LinkBroken, VirtualLink
from understudy.kombu.message import Publication, id_of
from understudy.kombu.publisher_channel import PublisherChannel, Unsendable
from understudy.kombu.topology import Declaration

if TYPE_CHECKING:
    from understudy.kombu.sender import Sender

__all__ = ["Window", "open_window"]


class Window(Protocol):
    inner: Inner

    def write(self, entry: Entry[Publication]) -> None:
        """Encode one message, the first unwritten one."""

    def send(self) -> None:
        """Hand everything encoded to the network."""

    def take_in(self) -> None:
        """Read what has come, without blocking."""

    def declare(self, call: Declaration) -> Any: ...

    def socket(self) -> socket.socket | None:
        """What becomes readable when something comes."""

    def has_unread(self) -> bool:
        """Whether something has come already, perhaps where a poll does not see it (TLS)."""


class AmqpWindow:
    def __init__(self, inner: Inner, sender: Sender, *, confirms: bool) -> None:
        self.inner = inner
        self._sender = sender
        self._confirms = confirms
        self._held = False  # frames were encoded and not sent yet
        self._admin: Any = None
        inner.raw.drop_held()  # of a channel that the broker has closed
        with self._translated():
            self._channel = PublisherChannel(
                inner.raw, settled=sender.settled, returned=self._returned
            )
            self._channel.start(confirms=confirms)

    @contextlib.contextmanager
    def _translated(self) -> Any:
        raw = self.inner.raw
        try:
            yield
        except LinkBroken:
            raise
        except amqp.exceptions.ChannelError as exc:
            raise LinkBroken(str(exc), by_peer=raw.connected) from exc
        except Exception as exc:
            if not raw.explains(exc):
                raise
            reason = raw.severed or f"{type(exc).__name__}: {exc}"
            raise LinkBroken(reason, raw.was_closed_over_a_message(exc)) from exc

    def write(self, entry: Entry[Publication]) -> None:
        publication = entry.item
        channel = self._channel
        try:
            prepared = publication.message.for_amqp()
        except Exception as exc:
            self._sender.unsendable(entry, exc)
            return
        with self._translated():
            if not channel.is_open:
                raise amqp.exceptions.RecoverableConnectionError("the publishing channel is closed")
            if not self._held:
                self._held = True
                self.inner.raw.hold_writes()
            try:
                tag = channel.write(
                    prepared,
                    publication.exchange,
                    publication.routing_key,
                    publication.mandatory,
                    publication.immediate,
                )
            except Unsendable as exc:
                self._sender.unsendable(entry, exc.cause)
                return
            self._sender.written(entry, tag)  # not to the socket yet: that is for `send`
            if not self._confirms:
                self._sender.settled(channel.last_tag, False, True)

    def send(self) -> None:
        if self._held:
            self._held = False
            with self._translated():
                self.inner.raw.send_held()

    def take_in(self) -> None:
        raw = self.inner.raw
        with self._translated():
            while raw.is_readable():
                with contextlib.suppress(TimeoutError):
                    raw.drain_events(timeout=0)
            if raw.severed is not None:
                raise LinkBroken(raw.severed)

    def declare(self, call: Declaration) -> Any:
        try:
            if self._admin is None or not self._admin.is_open:
                self._admin = PublisherChannel(
                    self.inner.raw, settled=lambda *_: None, returned=lambda *_: None
                )
                self._admin.start(confirms=False)
            return call.apply(self._admin)
        except amqp.exceptions.ChannelError as exc:
            if self._admin.is_open:  # it was the publishing channel, closed by a message
                raise LinkBroken(str(exc), by_peer=True) from exc
            raise
        except Exception as exc:
            raw = self.inner.raw
            if not raw.explains(exc):
                raise
            raise LinkBroken(raw.severed or f"{type(exc).__name__}: {exc}") from exc

    def has_unread(self) -> bool:
        return bool(self.inner.raw.is_readable())

    def socket(self) -> socket.socket | None:
        raw: socket.socket | None = self.inner.raw._raw_socket()
        return raw

    def _returned(self, message: amqp.Message, reason: str) -> None:
        self._sender.returned(id_of(message))


class VirtualWindow:
    """For kombu's virtual transports: each message is taken when its send returns."""

    def __init__(self, inner: Inner, sender: Sender) -> None:
        self.inner = inner
        self._sender = sender
        self._link = VirtualLink(inner)
        self._tag = 0

    def write(self, entry: Entry[Publication]) -> None:
        self._tag += 1
        self._sender.written(entry, self._tag)
        try:
            self._link.send(entry.item, NEVER)
        except LinkBroken:
            raise
        except Exception as exc:
            self._sender.unsendable(entry, exc)
        self._sender.settled(self._tag, False, True)

    def send(self) -> None:
        """Nothing is ever collected."""

    def take_in(self) -> None:
        """Nothing ever comes."""

    def declare(self, call: Declaration) -> Any:
        return self._link.declare(call, NEVER)

    def has_unread(self) -> bool:
        return False

    def socket(self) -> socket.socket | None:
        return None


def open_window(inner: Inner, sender: Sender, *, confirms: bool) -> Window:
    if inner.is_amqp:
        return AmqpWindow(inner, sender, confirms=confirms)
    return VirtualWindow(inner, sender)
