"""One connection to one endpoint: a kombu transport, client and raw connection of its own.

kombu's transports keep state that belongs to one connection (readers, cycles, channel lists), so
each attempt gets a fresh transport and a fresh client. The client carries the endpoint's
parameters; what kombu asks it as "the Connection" it passes on to the application's own
Connection (`home`).
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeAlias

from kombu.connection import Connection
from kombu.transport import pyamqp
from kombu.transport.virtual import base as virtual

from understudy.core.endpoint import Endpoint, EndpointOptions
from understudy.errors import ConfigurationError
from understudy.failover.monitor import monitor
from understudy.kombu.amqp import INTERRUPTED, BoundedConnection

if TYPE_CHECKING:
    from understudy.kombu.transport import Transport

__all__ = ["GOODBYE", "ChannelClass", "Inner", "InnerClient", "inner_of", "make_client"]

GOODBYE = 1.0  # s that a graceful close may take; a dead peer must not hold up the end of a process

SAME_AS = {"tcp:": "amqp:", "ssl:": "amqps:"}  # what the ActiveMQ schemes mean in this adapter
OWN_PROTOCOL = re.compile("^(tcp|ssl):")

#: transport_options that are kombu's retry policy or ours, not the candidate's
NOT_FOR_CANDIDATES = frozenset(
    {
        "understudy",
        "confirm_publish",
        "max_retries",
        "interval_start",
        "interval_step",
        "interval_max",
        "connect_retries_timeout",
        "errback",
        "callback",
    }
)


MEMBER_OPTIONS = [field.name for field in fields(EndpointOptions)]

ChannelClass: TypeAlias = Callable[[type[Any]], type[Any]]


class InnerClient(Connection):
    """The candidate's parameters; everything else is asked of the application's Connection."""

    home: Callable[[], Connection | None] = staticmethod(lambda: None)


def _passed_on(name: str) -> Any:
    def method(self: InnerClient, *args: Any, **kwargs: Any) -> Any:
        home = self.home()
        target = Connection if home is None else type(home)
        return getattr(target, name)(self if home is None else home, *args, **kwargs)

    method.__name__ = name
    return method


def _property_passed_on(name: str) -> property:
    def getter(self: InnerClient) -> Any:
        home = self.home()
        if home is None:
            descriptor = Connection.__dict__[name]
            return descriptor.__get__(self, type(self))
        return getattr(home, name)

    return property(getter)


for _name in (
    "as_uri", "channel", "clone", "close", "collect", "connect", "drain_events", "ensure",
    "ensure_connection", "_ensure_connection", "heartbeat_check", "info", "release", "revive",
    "_extract_failover_opts", "register_with_event_loop",
):  # fmt: skip
    setattr(InnerClient, _name, _passed_on(_name))
for _name in (
    "connected", "connection", "default_channel", "connection_errors", "channel_errors",
    "recoverable_connection_errors", "recoverable_channel_errors",
):  # fmt: skip
    setattr(InnerClient, _name, _property_passed_on(_name))


class Inner:
    """A connection as the supervisor knows it; hashable, weakly referable."""

    def __init__(
        self,
        endpoint: Endpoint,
        client: InnerClient,
        channel_class: ChannelClass = lambda base: base,
    ) -> None:
        """``channel_class`` makes the class of the application's channels from kombu's."""
        self.endpoint = endpoint
        self.client = client
        self._channel_class = channel_class
        self.transport: Any = client.create_transport()
        self.raw: Any = None
        self.dead: str | None = None  # the reason
        self.blocked_since: float | None = None  # monotonic
        self.blocked_timeout = -1.0  # s; below 0 = for ever
        self.consumes = False  # the application consumes on it
        self.is_drained = False  # the application reads from it, perhaps in a thread of its own
        self.is_suspect = False  # it owes an answer to somebody who has stopped waiting
        self.loss_was_raised = False  # to whoever consumes on it
        self.is_amqp = isinstance(self.transport, pyamqp.Transport)

    def __repr__(self) -> str:
        return f"<Inner {self.endpoint}{f' dead: {self.dead}' if self.dead else ''}>"

    # --- life -----------------------------------------------------------------------------------

    def connect(self, timeout: float) -> None:
        """TCP, TLS and protocol handshake; any exception means failure."""
        if not self.is_amqp:
            self.transport.understudy = self  # a virtual transport is its own connection
            self.transport.Channel = self._channel_class(type(self.transport).Channel)
            with monitor.alarm(timeout, lambda: self.sever(f"no answer within {timeout:g} s")):
                self.raw = self.transport.establish_connection()
            return
        self.transport.Connection = self._make_raw
        self.client.connect_timeout = timeout  # type: ignore[assignment]  # kombu says int
        try:
            self.transport.establish_connection()
        except BaseException:
            if self.raw is not None:
                self.raw.collect()
            raise

    def _make_raw(self, **options: Any) -> BoundedConnection:
        self.raw = BoundedConnection(**options)
        self.raw.Channel = self._channel_class(BoundedConnection.Channel)
        self.raw.understudy = self
        raw: BoundedConnection = self.raw
        return raw

    def belong_to(self, transport: Transport) -> None:
        """From now on the application's Connection behind this transport uses it."""
        self.client.home = transport.client_ref
        if self.is_amqp:
            self.raw.patience = transport.patience

    def note_polled(self) -> None:
        """From now on its owner waits for it in a poll, and closes it after a loss."""
        if self.is_amqp:
            self.raw.is_polled = True

    @property
    def was_interrupted(self) -> bool:
        """Whether it is useless through no fault of its endpoint."""
        return self.is_amqp and self.raw is not None and self.raw.severed == INTERRUPTED

    def sever(self, reason: str) -> None:
        """Break it now; never blocks."""
        if self.dead is None:
            self.dead = reason
        if self.is_amqp and self.raw is not None:
            self.raw.sever(self.dead)
        else:
            for sock in self._sockets():
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def abandon(self) -> None:
        """In a forked child: close the descriptors without a byte."""
        self.dead = "inherited from the parent process"
        if self.is_amqp and self.raw is not None:
            self.raw.abandon()
        else:
            for sock in self._sockets():
                socket.socket.close(sock)

    def close(self, patience: float) -> None:
        """Close gracefully where the peer answers within ``patience`` seconds."""
        if self.raw is None:
            return
        if self.dead is not None:
            self._drop()
            return
        self.dead = "closed"
        if self.is_amqp:
            self.raw.patience = lambda: patience
            with contextlib.suppress(Exception):
                self.raw.close()
        self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(Exception):
            if self.is_amqp:
                self.raw.collect()
            else:
                self.transport.close_connection(self.raw)

    @property
    def is_broken(self) -> bool:
        """Whether the connection itself has failed; where that can't be told, any error says so."""
        return not self.is_amqp or self.dead is not None or bool(self.raw.is_broken)

    def explains(self, exc: Exception) -> bool:
        """Whether this is what one meets on a broken connection, and no error of a caller's."""
        if self.is_amqp:
            return bool(self.raw.explains(exc))
        return isinstance(exc, self.transport.connection_errors)

    @property
    def is_for_publishing(self) -> bool:
        """False once the application reads from it: a confirm must not be read by somebody else."""
        return not self.consumes and not self.is_drained

    def is_alive(self) -> bool:
        if self.dead is not None or self.raw is None:
            return False
        return not self.is_amqp or not self.raw.is_at_end()

    # --- what the monitor needs -----------------------------------------------------------------

    @property
    def heartbeat(self) -> float:
        return float(self.raw.heartbeat or 0) if self.is_amqp and self.raw is not None else 0.0

    def beat(self, now: float) -> str | None:
        if self.dead is not None:
            return None
        since, limit = self.blocked_since, self.blocked_timeout
        if since is not None and 0 <= limit < now - since:
            return f"blocked for more than blockedTimeout={limit * 1000:.0f} ms"
        reason: str | None = self.raw.beat(now)
        if reason is None and not self.consumes:
            try:
                self.raw.take_in_idle(now)
            except Exception as exc:
                return f"{type(exc).__name__}: {exc}"
        return reason

    # --- helpers --------------------------------------------------------------------------------

    def _sockets(self) -> Iterator[socket.socket]:
        """The sockets of a virtual transport, as far as they can be found (redis)."""
        for channel in list(getattr(self.transport, "channels", None) or ()):
            for name in ("_pool", "_async_pool"):
                pool = getattr(channel, name, None)
                used = list(getattr(pool, "_in_use_connections", ()))
                idle = list(getattr(pool, "_available_connections", ()))
                for connection in used + idle:
                    sock = getattr(connection, "_sock", None)
                    if sock is not None:
                        yield sock


def inner_of(raw: Any) -> Inner | None:
    """The `Inner` that a raw connection belongs to."""
    inner = getattr(raw, "understudy", None)
    return inner if isinstance(inner, Inner) else None


def make_client(
    endpoint: Endpoint,
    *,
    heartbeat: float,
    connect_timeout: float,
    use_ssl: Any,
    login_method: str | None,
    transport_options: Mapping[str, Any],
) -> InnerClient:
    """A client for one endpoint; raises what kombu raises for a URL it does not understand."""
    options = {k: v for k, v in transport_options.items() if k not in NOT_FOR_CANDIDATES}
    try:
        client = InnerClient(
            OWN_PROTOCOL.sub(lambda found: SAME_AS[found[0]], endpoint.uri),
            ssl=ssl_options(endpoint, use_ssl),
            connect_timeout=connect_timeout,
            login_method=login_method,
            heartbeat=heartbeat,
            transport_options=options,
        )
    except TypeError as exc:  # what kombu raises for an option that it does not know
        raise ConfigurationError(f"{endpoint}: {_unknown_option(str(exc))}") from exc
    if heartbeat and hasattr(socket, "TCP_USER_TIMEOUT"):
        # py-amqp's own 1 s leaves a broker that pauses publishers (an alarm) as if it were dead
        patient = {socket.TCP_USER_TIMEOUT: int(2000 * heartbeat)}
        options.setdefault("socket_settings", patient)
    if issubclass(client.get_transport_cls(), virtual.Transport):
        options.pop("socket_settings", None)
        silence = max(2 * heartbeat, 1.0) if heartbeat else None
        options.setdefault("socket_connect_timeout", connect_timeout)
        options.setdefault("socket_timeout", silence)
    return client


def _unknown_option(complaint: str) -> str:
    found = re.search("unexpected keyword argument '(.*)'", complaint)
    if found is None:
        return complaint
    known = {*inspect.signature(Connection.__init__).parameters, *MEMBER_OPTIONS}
    nearest = difflib.get_close_matches(found[1], known, 1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"the option {found[1]} is unknown, to kombu too{hint}"


def ssl_options(endpoint: Endpoint, use_ssl: Any) -> Any:
    """kombu's ssl argument: the member's options over Celery's; verified unless verify=false.

    Always a fresh dict: kombu writes the server's name into it.
    """
    options = endpoint.options
    if endpoint.scheme in ("redis", "rediss"):
        return redis_ssl_options(endpoint, use_ssl)
    if not (endpoint.scheme in ("amqps", "ssl") or use_ssl):
        return False
    _check_files(endpoint)
    result = dict(use_ssl) if isinstance(use_ssl, Mapping) else {}
    given = {"ca_certs": options.cafile, "certfile": options.certfile, "keyfile": options.keyfile}
    result.update({name: value for name, value in given.items() if value is not None})
    if options.verify is False:
        result["cert_reqs"] = ssl.CERT_NONE
        result.pop("server_hostname", None)  # a name, even None, would have it checked
        return result
    result.setdefault("cert_reqs", ssl.CERT_REQUIRED)
    name = options.server_hostname or result.get("server_hostname") or endpoint.host
    result["server_hostname"] = name
    return result


def _check_files(endpoint: Endpoint) -> None:
    for name in ("cafile", "certfile", "keyfile"):
        path = getattr(endpoint.options, name)
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigurationError(f"{endpoint}: {name}={path} is no file that can be read")


def redis_ssl_options(endpoint: Endpoint, use_ssl: Any) -> Any:
    """The same in redis-py's words; kombu alone would not verify a rediss:// server."""
    if endpoint.scheme == "redis" and not use_ssl:
        return False
    _check_files(endpoint)
    options = endpoint.options
    result = dict(use_ssl) if isinstance(use_ssl, Mapping) else {}
    given = {
        "ssl_ca_certs": options.cafile,
        "ssl_certfile": options.certfile,
        "ssl_keyfile": options.keyfile,
    }
    result.update({name: value for name, value in given.items() if value is not None})
    if options.verify is False:
        result.update(ssl_cert_reqs=ssl.CERT_NONE, ssl_check_hostname=False)
    else:
        result.setdefault("ssl_cert_reqs", ssl.CERT_REQUIRED)
    return result
