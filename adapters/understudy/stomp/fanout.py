"""fanout: for stomp.py: a message goes to several brokers, everything else to one of them.

Rules
* The connection itself is a failover connection over all members: its *primary*. Subscriptions are
  there and nowhere else, and so is what is sent to a queue, unless ``fanOutQueues=true``.
* A message to a topic or an exchange goes to every member that is connected; see
  `failover.fanout`. Each member has a connection of its own for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from understudy import errors
from understudy.core.endpoint import Endpoint
from understudy.core.events import Event
from understudy.core.uri import FailoverURI
from understudy.failover.deadline import NEVER, Deadline
from understudy.failover.fanout import Closed, Fanout, alone
from understudy.failover.notifier import EventCallback
from understudy.stomp.errors import ConnectFailed, ConnectionLost, SendTimeout
from understudy.stomp.message import OutMessage
from understudy.stomp.session import CLOSED

if TYPE_CHECKING:
    from understudy.stomp.session import Session

__all__ = ["FanoutSender"]

TOPICS = ("/topic/", "/exchange/")
PRIVATE = ("/temp-queue/", "/temp-topic/", "/reply-queue/")  # of one connection

Maker = Callable[[FailoverURI, EventCallback], "Session"]  # not connected yet, not even begun


class FanoutSender:
    """What a connection does with ``fanout:``."""

    def __init__(self, uri: FailoverURI, make: Maker) -> None:
        self._queues_too = uri.options.fan_out_queues
        members = [_Member(uri, one, make) for one in uri.endpoints]
        self._fanout: Fanout[OutMessage] = Fanout(members, uri.options.min_ack_count)

    def takes(self, message: OutMessage) -> bool:
        destination = str(message.headers.get("destination"))
        if destination.startswith(PRIVATE):
            return False
        return self._queues_too or destination.startswith(TOPICS)

    def send(self, message: OutMessage, deadline: Deadline) -> None:
        """Return when ``minAckCount`` brokers have confirmed it; see `Fanout.send`."""
        try:
            self._fanout.send(message, message.key, deadline)
        except errors.SendTimeout as exc:
            raise SendTimeout(str(exc), message_id=exc.message_id, written=exc.written) from None
        except Closed:
            raise ConnectionLost(CLOSED) from None
        except errors.ConnectFailed as exc:
            raise ConnectFailed(str(exc).partition("\n")[0], exc.attempts) from None

    def close(self, deadline: Deadline) -> None:
        """See `Fanout.close`."""
        self._fanout.close(deadline)


class _Member:
    """One broker of the list, with a connection for messages to all."""

    def __init__(self, uri: FailoverURI, endpoint: Endpoint, make: Maker) -> None:
        self.name = str(endpoint)
        self._tell: Callable[[Event], object] = lambda event: None
        self._session = make(alone(uri, endpoint), lambda event: self._tell(event))

    def open(self, on_event: Callable[[Event], object]) -> None:
        self._tell = on_event
        self._session.start()
        self._session.wait_connected(NEVER)

    def send(self, message: OutMessage, deadline: Deadline) -> None:
        deadline.check()
        copy = OutMessage(message.headers, message.body, version=message.version)
        self._session.sender.send(copy, deadline)

    def close(self) -> None:
        self._session.close()
