"""A channel for producers of tracked messages while there is no broker to open one on.

Rules
* kombu opens a connection and a channel before it publishes, and would wait for a broker where a
  tracked send need not. Only `Producer._publish` is given a `Standby`: whoever else asks for a
  connection waits for a real one, and sees that there is none.
* What a producer declares on its way is noted, and declared before its message is sent. Such a
  declaration can't be refused any more: a refusal is logged, and the send shows whether it matters.
* Everything else is done on a real channel, which is opened then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import amqp
from amqp.protocol import queue_declare_ok_t
from kombu.transport.base import to_rabbitmq_queue_arguments

from understudy.kombu.channel import by_name
from understudy.kombu.message import OutMessage, prepare_message
from understudy.kombu.topology import outlives_connection

if TYPE_CHECKING:
    from understudy.kombu.transport import Transport

__all__ = ["DEFERRABLE", "NobodyThere", "Standby", "deferred_answer"]

RETRY = 1.0  # s after which a broker that is there is asked for a connection again

DEFERRABLE = frozenset({"exchange_declare", "queue_declare", "queue_bind", "exchange_bind"})


def deferred_answer(method: str, arguments: dict[str, Any]) -> Any:
    """What a declaration answers that is still to be done; counts are unknown, and 0."""
    return queue_declare_ok_t(arguments["queue"], 0, 0) if method == "queue_declare" else None


class NobodyThere(Exception):
    """No broker is there now; whoever asked can do without."""


class Standby:
    """In the place of a raw connection."""

    def __init__(self, transport: Transport) -> None:
        self.client = transport.client
        self._made_at = time.monotonic()

    def channel(self) -> StandbyChannel:
        return StandbyChannel(self)

    def __repr__(self) -> str:
        return "<Standby: no broker>"

    @property
    def is_worth_a_retry(self) -> bool:
        return time.monotonic() - self._made_at >= RETRY


class StandbyChannel:
    channel_id = 0

    def __init__(self, standby: Standby) -> None:
        self.connection = standby
        self.events: dict[str, set[Any]] = {"basic_return": set()}
        self._real: Any = None

    @property
    def _home(self) -> Transport:
        home: Transport = self.connection.client.transport
        return home

    prepare_message = prepare_message

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def basic_publish(
        self,
        message: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        self._home.publish(
            OutMessage.of(message),
            exchange or "",
            routing_key or "",
            mandatory=bool(mandatory),
            immediate=bool(immediate),
            limits=(timeout, confirm_timeout),
            on_return=lambda *_: None,  # a tracked message is refused later, by flush
        )

    def close(self) -> None:
        """A real channel ends with its connection."""

    def __getattr__(self, name: str) -> Any:
        if name not in DEFERRABLE:
            return getattr(self._open(), name)

        def declare(*args: Any, **kwargs: Any) -> Any:
            home = self._home
            arguments = by_name(getattr(amqp.Channel, name), args, kwargs)
            if not outlives_connection(name, arguments):
                return getattr(self._open(), name)(**arguments)
            if home.defers(name):
                return home.defer(name, arguments)
            try:
                channel = self._open(gives_way=True)
            except NobodyThere:  # its loss had not been noticed yet
                return home.defer(name, arguments)
            return getattr(channel, name)(**arguments)

        return declare

    def _open(self, *, gives_way: bool = False) -> Any:
        if self._real is None or not self._real.connection.client.connected:
            self._real = self._home.open_real_channel(gives_way=gives_way)
        return self._real
