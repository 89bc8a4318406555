"""A channel of our own in confirm mode, on which nothing but our publishing happens.

A refused message closes this channel and no other of the application's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import amqp
from amqp import spec
from amqp.exceptions import RecoverableConnectionError

from understudy.failover.interruptions import is_of_signal_handler
from understudy.kombu.amqp import BoundedConnection
from understudy.kombu.bounded_channel import BoundedChannel
from understudy.kombu.waiting import bounded_wait
from understudy.kombu.wire import NOT_ENCODABLE

__all__ = ["PublisherChannel", "Unsendable"]


class Unsendable(Exception):
    """AMQP cannot carry this message, whatever the broker."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class PublisherChannel(BoundedChannel):
    """See above; all its events come from within the reading of a frame.

    ``settled(tag, multiple, ok)`` is called for every confirm and ``returned(message_id, text)``
    for every unroutable message.
    """

    def __init__(
        self,
        connection: BoundedConnection,
        *,
        settled: Callable[[int, bool, bool], None],
        returned: Callable[[amqp.Message, str], None],
    ) -> None:
        super().__init__(connection, None)
        self.settled = settled
        self.returned = returned
        self.last_tag = 0

    def start(self, *, confirms: bool) -> None:
        """Open the channel; one round trip. An error of confirm.select shows at the first send."""
        self.open()
        if confirms:
            self.confirm_select(nowait=True)

    def write(
        self,
        message: amqp.Message,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        immediate: bool,
    ) -> int:
        """Write one message; its delivery tag. Raises Unsendable with nothing written."""
        connection = self.connection
        if connection is None or not self.is_open:
            raise RecoverableConnectionError("the publishing channel is closed")
        writes = connection.writes
        try:
            self.send_method(
                spec.Basic.Publish,
                "Bssbb",
                (0, exchange, routing_key, mandatory, immediate),
                message,
            )
        except (RecoverableConnectionError, OSError):
            raise
        except NOT_ENCODABLE as exc:
            if connection.writes == writes and not is_of_signal_handler(exc):
                raise Unsendable(exc) from exc
            raise
        self.last_tag += 1
        return self.last_tag

    def _on_basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        self._tell(self.settled, delivery_tag, multiple, True)

    def _on_basic_nack(self, delivery_tag: int, multiple: bool) -> None:
        self._tell(self.settled, delivery_tag, multiple, False)

    def _on_basic_return(
        self, reply_code: int, reply_text: str, exchange: str, routing_key: str, message: Any
    ) -> None:
        where = f"exchange {exchange!r}, routing key {routing_key!r}"
        self._tell(self.returned, message, f"{reply_code} {reply_text} ({where})")

    def _tell(self, callback: Callable[..., None], *what: Any) -> None:
        """Its error, which would be a bug, says nothing about the connection."""
        try:
            callback(*what)
        except BaseException as exc:
            self.connection.callback_error = exc
            raise

    def wait(
        self, method: Any, callback: Any = None, timeout: Any = None, returns_tuple: bool = False
    ) -> Any:
        return bounded_wait(super().wait, self.connection, method, callback, timeout, returns_tuple)

    def _do_revive(self) -> None:
        """The broker closed this channel: leave it closed, its tags mean nothing any more."""
        self.collect()
