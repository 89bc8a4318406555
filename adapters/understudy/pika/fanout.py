"""fanout: for pika: a message goes to several brokers, everything else to one of them.

Rules
* The connection itself is a failover connection over all members: its *primary*. Consumers are
  there and nowhere else, and so is what goes to the default exchange (a queue message), unless
  ``fanOutQueues=true``.
* A message to any other exchange goes to every member that is connected; see `failover.fanout`.
  Each member has a connection of its own for that, to which the exchanges, queues and bindings
  that the application declared are declared before a message needs them, except exclusive and
  auto-delete queues: those are the primary's, and elsewhere nobody would consume from them, so that
  they would fill up. Deletions are not repeated there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from understudy import errors
from understudy.core.endpoint import Endpoint
from understudy.core.events import Event
from understudy.core.uri import FailoverURI
from understudy.failover.deadline import Deadline
from understudy.failover.fanout import Closed, Fanout, alone
from understudy.pika.errors import (
    CLOSED,
    ConnectFailed,
    ConnectionLost,
    Nacked,
    SendTimeout,
    Unroutable,
)
from understudy.pika.message import OutMessage
from understudy.pika.topology import Topology

__all__ = ["FanoutPublisher", "as_pikas"]

#: makes a BlockingConnection that is not connected yet
Maker = Callable[[FailoverURI, Callable[[Event], object]], Any]


@contextlib.contextmanager
def as_pikas() -> Iterator[None]:
    """What a send to all ends with, as pika's users know it."""
    try:
        yield
    except errors.SendTimeout as exc:
        raise SendTimeout(str(exc), message_id=exc.message_id, written=exc.written) from None
    except Closed:
        raise ConnectionLost(CLOSED) from None
    except errors.ConnectFailed as exc:
        raise ConnectFailed(str(exc).partition("\n")[0], exc.attempts) from None


class FanoutPublisher:
    """What a connection does with ``fanout:``."""

    def __init__(self, uri: FailoverURI, topology: Topology, make: Maker) -> None:
        self._queues_too = uri.options.fan_out_queues
        members = [_Member(uri, one, topology, make) for one in uri.endpoints]
        self._fanout: Fanout[OutMessage] = Fanout(members, uri.options.min_ack_count)

    def takes(self, message: OutMessage) -> bool:
        return bool(message.exchange) or self._queues_too

    def publish(self, message: OutMessage, deadline: Deadline) -> None:
        """Return when ``minAckCount`` brokers have confirmed it; see `Fanout.send`."""
        with as_pikas():
            self._fanout.send(message, message.message_id, deadline)

    def close(self, deadline: Deadline) -> None:
        """See `Fanout.close`."""
        self._fanout.close(deadline)


class _Member:
    """One broker of the list, with a connection and a channel for messages to all."""

    def __init__(
        self, uri: FailoverURI, endpoint: Endpoint, topology: Topology, make: Maker
    ) -> None:
        self.name = str(endpoint)
        self._topology = topology
        self._tell: Callable[[Event], object] = lambda event: None
        self._connection: Any = make(alone(uri, endpoint), lambda event: self._tell(event))
        self._channel: Any = None
        self._declared: list[Any] = []

    def open(self, on_event: Callable[[Event], object]) -> None:
        self._tell = on_event
        self._connection._connect()

    def send(self, message: OutMessage, deadline: Deadline) -> None:
        if self._channel is None or self._channel.is_closed:
            self._channel = self._connection.channel()
        methods = self._topology.shared()
        if methods != self._declared:
            for method in methods:
                if method not in self._declared:
                    self._channel.declare_again(method)
            self._declared = methods
        deadline.check()  # what came before may have waited for the broker
        sent = self._channel.publish_until(message.copy(), deadline)
        if not sent.ok:
            text = f"{self.name} answered basic.nack to message {message.message_id}"
            raise Nacked(text, message_id=message.message_id, messages=[])
        if sent.returned is not None:
            text = f"message {message.message_id} reached no queue on {self.name}"
            raise Unroutable(text, message_id=message.message_id, messages=[])

    def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
