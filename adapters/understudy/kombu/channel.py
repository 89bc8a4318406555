"""The application's channels: the host's own channel class with a few methods of ours in front.

Rules
* Publishing goes to the connection's publisher, whatever has become of this channel.
* A declaration on a channel whose connection is gone is done where publishing goes on, unless it
  belongs to the connection (exclusive, auto-delete, server-named) or the application consumes here.
* Consuming is never carried over silently: Celery and ConsumerMixin have to see the loss, because
  they drop what was prefetched and start again.
* An ack, reject or recover on a connection that is gone is counted and dropped: its delivery tag
  would mean another message. Closing and cancelling there are no errors either.
* A channel in a transaction is left alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import amqp
from kombu.transport import pyamqp

from understudy.failover.interruptions import is_of_signal_handler, passing_over
from understudy.kombu import celery
from understudy.kombu.amqp import BoundedConnection
from understudy.kombu.errors import SendTimeout
from understudy.kombu.inner import GOODBYE, Inner, inner_of
from understudy.kombu.message import OutMessage, prepare_message
from understudy.kombu.topology import Declaration, outlives_connection
from understudy.kombu.waiting import bounded_wait

__all__ = ["application_channel", "by_name"]


class _Surviving:
    """Mixed in front of a kombu channel class."""

    _inner: Inner | None = None
    _in_transaction = False
    _passing_queues: frozenset[str] = frozenset()  # declared here, and gone with the connection

    def _home(self) -> Any:
        """The transport that the application's Connection has now; None once that is closed."""
        client = None if self._inner is None else self._inner.client.home()
        return None if client is None or client._closed else client.transport

    @property
    def _is_gone(self) -> bool:
        return self._inner is not None and self._inner.dead is not None

    # --- publishing -----------------------------------------------------------------------------

    prepare_message = prepare_message

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
        home = self._home()
        if self._in_transaction or home is None:
            native = message
            if isinstance(message, OutMessage):
                native = message.for_channel(super().prepare_message)  # type: ignore[misc]
            super().basic_publish(  # type: ignore[misc]
                native, exchange=exchange, routing_key=routing_key, mandatory=mandatory, **kwargs
            )
            return
        home.publish(
            OutMessage.of(message),
            exchange or "",
            routing_key or "",
            mandatory=bool(mandatory),
            immediate=bool(immediate),
            limits=(timeout, confirm_timeout),
            on_return=self._tell_returned,
        )

    def _tell_returned(self, error: Exception, exchange: str, key: str, message: Any) -> None:
        events = getattr(self, "events", None)
        for callback in list(events.get("basic_return", ())) if events else ():
            callback(error, exchange, key, message)

    def tx_select(self, *args: Any, **kwargs: Any) -> Any:
        self._in_transaction = True
        return super().tx_select(*args, **kwargs)  # type: ignore[misc]

    # --- consuming ------------------------------------------------------------------------------

    def basic_consume(self, *args: Any, **kwargs: Any) -> Any:
        if self._inner is not None:
            self._inner.consumes = True
        return super().basic_consume(*args, **kwargs)  # type: ignore[misc]

    def basic_ack(self, *args: Any, **kwargs: Any) -> Any:
        return self._settle(super().basic_ack, args, kwargs)  # type: ignore[misc]

    def basic_reject(self, *args: Any, **kwargs: Any) -> Any:
        return self._settle(super().basic_reject, args, kwargs)  # type: ignore[misc]

    def basic_recover(self, *args: Any, **kwargs: Any) -> Any:
        return self._settle(super().basic_recover, args, kwargs)  # type: ignore[misc]

    def basic_cancel(self, *args: Any, **kwargs: Any) -> Any:
        return None if self._is_gone else super().basic_cancel(*args, **kwargs)  # type: ignore[misc]

    def _settle(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        inner = self._inner
        if inner is not None and inner.dead is not None:
            home = self._home()
            if home is not None:
                home.broker.count_stale_ack()
            return None
        return method(*args, **kwargs)

    # --- declarations ---------------------------------------------------------------------------

    def _declare(self, method: str, own: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        arguments = by_name(own, args, kwargs)
        home = self._home()
        if home is None or not outlives_connection(method, arguments, self._passing_queues):
            result = own(*args, **kwargs)
            if method == "queue_declare" and not arguments.get("passive"):
                named = str(arguments.get("queue") or getattr(result, "queue", ""))
                self._passing_queues = self._passing_queues | {named}
            return result
        inner = self._inner
        assert inner is not None
        deadline = home.deadline()
        if inner.dead is None:
            try:
                result = own(*args, **kwargs)
            except amqp.exceptions.ChannelError:
                raise
            except Exception as exc:
                if not inner.is_broken or not inner.explains(exc):
                    raise  # AMQP cannot carry it: the caller's error
                home.lost(inner, exc)
                if inner.consumes:
                    raise
            else:
                home.broker.note_declared(method, arguments, inner)
                return result
        elif inner.consumes:
            inner.loss_was_raised = True
            return own(*args, **kwargs)
        if home.defers(method):
            return home.defer(method, arguments)
        return home.declare(Declaration(method, tuple(arguments.items())), deadline)


def _declaring(method: str) -> Callable[..., Any]:
    def declare(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = getattr(super(_Surviving, self), method)
        return self._declare(method, own, args, kwargs)

    declare.__name__ = method
    return declare


for _method in (
    "exchange_declare", "exchange_bind", "exchange_unbind", "exchange_delete",
    "queue_declare", "queue_bind", "queue_unbind", "queue_delete",
):  # fmt: skip
    setattr(_Surviving, _method, _declaring(_method))


def by_name(method: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of this method, by their names."""
    bound = _signature(getattr(method, "__func__", method)).bind(None, *args, **kwargs)
    arguments = dict(bound.arguments)
    arguments.pop("self", None)
    arguments.update(arguments.pop("kwargs", {}))
    return arguments


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


class _AmqpSurviving(_Surviving):
    """Also keeps `connection`, which py-amqp clears: kombu asks it for the client even then."""

    _connection: Any = None
    _own: Any = None
    _patience: float | None = None  # s a reply may take, where it is not the connection's

    @property
    def connection(self) -> Any:
        """The connection; also when it is gone, so that a producer's channel stays usable."""
        return self._connection if self._connection is not None else self._own

    @connection.setter
    def connection(self, connection: BoundedConnection | None) -> None:
        self._connection = connection
        if connection is not None:
            self._own = connection
            self._inner = inner_of(connection)

    def send_method(self, *args: Any, **kwargs: Any) -> Any:
        inner = self._inner
        if inner is not None and inner.dead is not None:
            inner.loss_was_raised = True
            raise amqp.exceptions.RecoverableConnectionError(inner.dead)
        if self._connection is None:
            raise amqp.exceptions.RecoverableConnectionError("the channel is closed")
        return super().send_method(*args, **kwargs)  # type: ignore[misc]

    def undisturbed(self, ask: Callable[[], Any]) -> Any:
        try:
            return super().undisturbed(ask)  # type: ignore[misc]
        except TimeoutError as exc:
            if is_of_signal_handler(exc):
                raise
            text = "nothing could be asked within timeout: another thread reads this connection"
            raise SendTimeout(text) from None

    def _on_basic_deliver(self, *args: Any, **kwargs: Any) -> None:
        """An error of the application's callback says nothing about the connection."""
        try:
            super()._on_basic_deliver(*args, **kwargs)  # type: ignore[misc]
        except BaseException as exc:
            self._own.callback_error = exc
            raise

    def wait(
        self, method: Any, callback: Any = None, timeout: Any = None, returns_tuple: bool = False
    ) -> Any:
        own = super().wait  # type: ignore[misc]
        limit = self._patience if timeout is None else timeout
        try:
            return bounded_wait(own, self._own, method, callback, limit, returns_tuple)
        except amqp.exceptions.RecoverableConnectionError as exc:
            home = self._home()
            if home is not None and celery.is_stopping():
                home.lost(self._inner, exc)  # one silence is enough: no goodbye to its siblings
            raise

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Never waits for a dead peer, and a peer that is gone is no error.

        While another thread waits for its answer there is none to be had: the channel then ends
        with its connection.
        """
        self._patience = GOODBYE
        with passing_over(amqp.exceptions.RecoverableConnectionError, TimeoutError):
            if self._connection is not None and not self._is_gone:
                with self._own.reading(GOODBYE):
                    super().close(*args, **kwargs)  # type: ignore[misc]


class _VirtualSurviving(_Surviving):
    """For channels of kombu's virtual transports."""

    @property
    def connection(self) -> Any:
        return self.__dict__.get("connection") or self.__dict__.get("_own")

    @connection.setter
    def connection(self, connection: Any) -> None:
        self.__dict__["connection"] = connection
        if connection is not None:
            self.__dict__["_own"] = connection
            self._inner = inner_of(connection)


@cache
def application_channel(base: type[Any]) -> type[Any]:
    """The channel class to use in place of ``base``."""
    mixin = _AmqpSurviving if issubclass(base, pyamqp.Channel) else _VirtualSurviving
    return type(f"Surviving{base.__name__}", (mixin, base), {"__module__": base.__module__})
