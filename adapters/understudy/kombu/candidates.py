"""The part of our kombu transport that is answered by the candidates behind the URI.

kombu asks a transport what errors it raises, what it can do and how it is polled: before there is a
connection that is answered for all candidates together, afterwards by the current one.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import amqp
from kombu.transport import base, pyamqp

from understudy.core.redact import redact
from understudy.kombu.inner import Inner, inner_of
from understudy.kombu.logical import LogicalBroker
from understudy.kombu.masking import raw_uri

__all__ = ["CandidatesTransport"]


def _without_nack(host_errors: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    """A refused message is no reason to reconnect, whatever py-amqp says."""
    return tuple(e for e in host_errors if e is not amqp.exceptions.MessageNacked)


def _redis_errors() -> tuple[type[BaseException], ...]:
    try:
        from redis import exceptions
    except Exception:  # also what importing raises while the interpreter ends
        return ()
    return (exceptions.ConnectionError, exceptions.TimeoutError)


class CandidatesTransport(base.Transport):
    """What it takes from `Transport`: the logical broker, the client and the current connection."""

    can_parse_url = True
    default_connection_params: dict[str, Any] = {}  # noqa: RUF012 - or kombu would show guest:guest

    # Read from the class before any instance exists; each instance sets its client's own exactly.
    connection_errors = (*pyamqp.Transport.connection_errors, *_redis_errors())
    channel_errors = pyamqp.Transport.channel_errors
    recoverable_connection_errors = (
        *_without_nack(pyamqp.Transport.recoverable_connection_errors),
        *_redis_errors(),
    )
    recoverable_channel_errors = pyamqp.Transport.recoverable_channel_errors

    driver_type = "amqp"
    driver_name = "understudy"
    implements = base.Transport.implements.extend(asynchronous=True, heartbeats=True)

    _driver: Any = None  # the first candidate, asked while there is no connection
    _inner: weakref.ref[Inner] | None = None  # the application's connection

    @property
    def broker(self) -> LogicalBroker:
        raise NotImplementedError

    def _answer_for_candidates(self) -> None:
        """What kombu asks of an unconnected transport is answered from all the candidates."""
        candidates = [sample.transport for sample in self.broker.samples]
        first = candidates[0]
        self.driver_type, self.driver_name = first.driver_type, first.driver_name
        self._driver = first
        self.implements = base.Transport.implements.extend(
            asynchronous=all(c.implements.asynchronous for c in candidates),
            heartbeats=all(c.implements.heartbeats for c in candidates),
            exchange_type=frozenset.intersection(
                *(frozenset(c.implements.exchange_type) for c in candidates)
            ),
        )
        for name in (
            "connection_errors",
            "channel_errors",
            "recoverable_connection_errors",
            "recoverable_channel_errors",
        ):
            found = dict.fromkeys(e for c in candidates for e in _errors_of(c, name))
            exact = _without_nack(tuple(found))
            self.client.__dict__[name] = exact
            known = getattr(CandidatesTransport, name)
            if name == "connection_errors" or name == "recoverable_connection_errors":
                more = [e for e in exact if e not in known and e is not KeyError]
                setattr(CandidatesTransport, name, (*known, *more))

    def driver_version(self) -> str:
        return str(self._driver.driver_version()) if self._driver is not None else "N/A"

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        inner = inner_of(connection)
        if inner is not None:
            inner.note_polled()
            inner.transport.register_with_event_loop(connection, loop)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        inner = inner_of(connection)
        if inner is not None:
            with contextlib.suppress(AttributeError):
                inner.transport.unregister_from_event_loop(connection, loop)

    def get_heartbeat_interval(self, connection: Any) -> Any:
        inner = inner_of(connection)
        return 0 if inner is None else inner.transport.get_heartbeat_interval(connection)

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        inner = inner_of(connection)
        return True if inner is None else inner.transport.qos_semantics_matches_spec(connection)

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        inner = None if self._inner is None else self._inner()
        if inner is None:
            inner = Inner(self.broker.candidates[0], self.broker.samples[0])
        return inner.transport.get_manager(*args, **kwargs)

    @property
    def channels(self) -> Any:
        """Those of the current candidate, where it has any (Celery's teardown looks for them)."""
        inner = None if self._inner is None else self._inner()
        return None if inner is None else getattr(inner.transport, "channels", None)

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        real = raw_uri(uri)
        return real if include_password else redact(real).replace(":**@", f":{mask or '**'}@")


def _errors_of(transport: Any, name: str) -> tuple[type[BaseException], ...]:
    found = getattr(transport, name, None)
    if found is None and name == "recoverable_connection_errors":
        # virtual transports know no such difference, and kombu takes them all
        found = (*transport.connection_errors, *transport.channel_errors)
    return tuple(found or ())
