"""BlockingChannel: pika's API of a channel, on whichever broker is current."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pika
from pika import exceptions, spec

from understudy.pika.declarations import Declarations
from understudy.pika.link import Link
from understudy.pika.link_channel import Ask, LinkChannel, LinkLost
from understudy.pika.publishing import Publishing
from understudy.pika.wire import GOODBYE

__all__ = ["BlockingChannel"]


class BlockingChannel(Declarations, Publishing, pika.adapters.blocking_connection.BlockingChannel):
    """A drop-in for pika's; made by ``BlockingConnection.channel()``. Any thread may use it."""

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<BlockingChannel {self.number} {state} of {self._connection!r}>"

    # --- identity and state ---------------------------------------------------------------------

    @property
    def channel_number(self) -> int:
        return self.number

    def __int__(self) -> int:
        return self.number

    @property
    def connection(self) -> Any:
        return self._connection

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_open(self) -> bool:
        """True between the links too: it is closed by the application or over its mistakes only."""
        return not self._is_closed and not self._session.is_closed

    @property
    def consumer_tags(self) -> list[str]:
        return list(self._consumer_infos)

    @property
    def stale_acks(self) -> int:
        """Acknowledgements of earlier connections, dropped, over all channels."""
        return self._session.stale_acks

    # --- life -----------------------------------------------------------------------------------

    def opening(self, link: Link) -> Ask:
        """Open it for the first time, unless it was restored with the others meanwhile."""
        if self._link is not None:
            return Ask.over()
        self._link = link.open_channel(self.number, self)
        self._link.keeps_more = self._is_in_transaction
        return self._link.opening

    def restore_on(self, link: Link) -> LinkChannel:
        self._fresh = link.open_channel(self.number, self)
        self._fresh.keeps_more = self._is_in_transaction
        return self._fresh

    def requests(self) -> Iterator[Any]:
        if self._log is not None:
            yield spec.Tx.Select()
        yield from self._consuming_requests()

    def restored(self, channel: LinkChannel) -> None:
        self._fresh = None
        if self._is_closed:
            channel.close(200, "closed while it was restored")
            return
        self._link = channel
        self._cancel_unwanted(channel)
        self._replay(channel)

    def link_lost(self, lost: LinkLost) -> None:
        """Called under the lock when the wire is over."""
        if self._link is not None and self._link.opening.is_over():
            self.is_kept = True  # even if whoever opens it has not looked yet
        self._link = self._fresh = None
        self._forget_deliveries()
        if self._log is not None:
            self._log.link_lost(accused=lost.is_verdict)

    def closed(self, reason: Exception) -> None:
        """The broker has closed it, over a mistake of the application's."""
        if self._fresh is not None:
            return  # while it is restored; see `restoring`
        self._closing_reason = reason
        self._forget_everything()
        # Request urgent termination of process_data_events
        self._connection._request_channel_dispatch(-self.number)

    def _forget_everything(self) -> None:
        self._is_closed = True
        self._link = None
        self._consumer_infos = {}  # first, so that nothing is kept for a consumer with auto_ack
        self._consumes = {}
        self._forget_deliveries()
        self._pending_events = deque()
        self._queue_consumer_generator = None
        self._session.channels.pop(self.number, None)

    def close(self, reply_code: int = 0, reply_text: str = "Normal shutdown") -> None:
        """As pika's; without a broker it is over at once."""
        session = self._session
        with session.lock:
            self._raise_if_not_open()
            wire, link = session.wire, self._link
            try:
                if wire is not None and link is not None:
                    ask = link.close(reply_code, reply_text)
                    session.wait(wire, ask.is_over, time.monotonic() + self._patience())
            except LinkLost:
                pass
            finally:
                self._forget_everything()
                self._closing_reason = exceptions.ChannelClosedByClient(reply_code, reply_text)
                self._connection._request_channel_dispatch(-self.number)
                session.notify()

    def _patience(self) -> float:
        return max(self._session.options.close_timeout / 1000, GOODBYE)

    def flow(self, active: bool) -> bool:
        """As pika's. RabbitMQ refuses ``active=False`` and closes the connection over it."""
        with self._session.lock:
            answer = self._exchange(
                lambda link: link.ask(spec.Channel.Flow(active), spec.Channel.FlowOk),
                "Channel.Flow",
            )
            return bool(answer.answer.method.active)

    def add_on_cancel_callback(self, callback: Callable[[Any], Any]) -> None:
        """As pika's: called with the method frame when the broker cancels a consumer."""
        self._on_cancel.append(callback)

    def basic_recover(self, requeue: bool = False) -> None:
        with self._session.lock:
            link, unsettled = self._link, set(self._unsettled)
            self._request(spec.Basic.Recover(requeue), spec.Basic.RecoverOk)
            if link is self._link:
                self._unsettled -= unsettled  # the broker sends these again, with other tags
                self._forget_buffered({tag + self._offset for tag in unsettled})
