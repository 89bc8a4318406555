"""How each endpoint is dialed: its parameters, and the dialer port for pika's wires."""

from __future__ import annotations

import copy
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pika
from pika.tcp_socket_opts import set_sock_opts

from understudy import discovery
from understudy.core.endpoint import Endpoint
from understudy.core.uri import FailoverURI, parse
from understudy.errors import ConfigurationError
from understudy.failover.deadline import Deadline
from understudy.failover.monitor import monitor
from understudy.failover.tls import tls_context
from understudy.pika.wire import Wire

__all__ = ["SCHEMES", "PikaDialer", "read_parameters"]

SCHEMES = frozenset({"amqp", "amqps", "pyamqp", "tcp", "ssl"})
TLS_SCHEMES = frozenset({"amqps", "ssl"})

#: what a member may say in pika's own words; reconnecting and its pauses are ours, not pika's
MEMBER_OPTIONS = (
    "blocked_connection_timeout",
    "channel_max",
    "client_properties",
    "frame_max",
    "locale",
    "socket_timeout",
    "ssl_options",
    "stack_timeout",
    "tcp_options",
)


def read_parameters(
    given: Any, options: Mapping[str, object] | None
) -> tuple[FailoverURI, dict[tuple[object, ...], Any]]:
    """What the application gave (a URI, pika's parameters, or a list of these) as endpoints.

    The mapping holds pika's parameters of those endpoints that were given as such, by `_login`.
    Raises ConfigurationError.
    """
    if given is None:
        given = pika.ConnectionParameters()
    if isinstance(given, FailoverURI):
        return given, {}
    if isinstance(given, str):
        uri = parse(
            given,
            options=options,
            schemes=SCHEMES,
            member_options=MEMBER_OPTIONS,
            agents=discovery.agent_schemes(),
        )
        for endpoint in uri.endpoints:
            parameters_of(endpoint)  # raises for what pika can't read
        return uri, {}
    is_list = isinstance(given, Sequence) and not isinstance(given, bytes)
    listed = list(given) if is_list else [given]
    if not listed:
        raise ConfigurationError("the list of connection parameters is empty")
    members = [_member(one) for one in listed]
    # pika tries its list in order
    ordered = {"randomize": False, **(options or {})}
    uri = parse(f"failover:({','.join(members)})", options=ordered, schemes=SCHEMES)
    single = [parse(member, schemes=SCHEMES).endpoints[0] for member in members]
    known = {
        _login(endpoint): one
        for endpoint, one in zip(single, listed, strict=True)
        if isinstance(one, pika.connection.Parameters)
    }
    return uri, known


def _login(endpoint: Endpoint) -> tuple[object, ...]:
    """All of an endpoint's identity but its options, which the list may change."""
    return endpoint.identity[:-1]


def _member(parameters: Any) -> str:
    if isinstance(parameters, str):
        return parameters
    if not isinstance(parameters, pika.connection.Parameters):
        raise ConfigurationError(
            "connection parameters must be a URI, pika's ConnectionParameters or URLParameters, or "
            f"a list of these; not {type(parameters).__name__}"
        )
    scheme = "amqps" if parameters.ssl_options is not None else "amqp"
    login = parameters.credentials
    user = ""
    if isinstance(login, pika.PlainCredentials):
        user = f"{quote(login.username, safe='')}:{quote(login.password, safe='')}@"
    host = f"[{parameters.host}]" if ":" in parameters.host else parameters.host
    vhost = quote(parameters.virtual_host, safe="")
    beat = parameters.heartbeat
    query = f"?heartbeat={beat * 1000}" if isinstance(beat, int) else ""
    return f"{scheme}://{user}{host}:{parameters.port}/{vhost}{query}"


def parameters_of(endpoint: Endpoint) -> Any:
    """pika's parameters of an endpoint; TLS is ours, unless it says ssl_options in pika's words."""
    scheme = "amqps" if endpoint.scheme in TLS_SCHEMES else "amqp"
    query = urlencode(dict(endpoint.query))
    try:
        parameters = pika.URLParameters(f"{scheme}://localhost/?{query}" if query else "")
    except (ValueError, TypeError, SyntaxError) as exc:
        raise ConfigurationError(f"{endpoint}: {exc}") from exc
    tls = scheme == "amqps"
    parameters.host = endpoint.host
    parameters.port = endpoint.port or (5671 if tls else 5672)
    if endpoint.username is not None:
        login = pika.PlainCredentials(endpoint.username, endpoint.password or "")
        parameters.credentials = login
    vhost = unquote(endpoint.path.removeprefix("/"))
    parameters.virtual_host = vhost if vhost.strip("/") else "/"
    if not tls:
        parameters.ssl_options = None
    elif "ssl_options" not in endpoint.query:
        try:
            parameters.ssl_options = pika.SSLOptions(tls_context(endpoint))
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"{endpoint}: its TLS files can't be used: {exc}") from exc
    return parameters


class PikaDialer:
    """Makes and breaks wires (see `understudy.failover.dialer`)."""

    def __init__(self, uri: FailoverURI, known: Mapping[tuple[object, ...], Any]) -> None:
        self.on_dead: Callable[[Wire, str], None] = lambda wire, reason: wire.sever(reason)
        self.secrets: dict[str, str] = {}  # by user: passwords that were changed meanwhile
        self._uri = uri
        self._known = known

    def dial(self, endpoint: Endpoint, timeout: float) -> Wire:
        deadline = Deadline(timeout)
        known = self._known.get(_login(endpoint))  # the application's own object
        parameters = parameters_of(endpoint) if known is None else copy.copy(known)
        login = parameters.credentials
        secret = self.secrets.get(endpoint.username or "")  # none for pika's default login
        if isinstance(login, pika.PlainCredentials) and secret is not None:
            parameters.credentials = pika.PlainCredentials(login.username, secret)
        sock = _connect(parameters, deadline)
        try:
            if parameters.ssl_options is not None:
                sock = _wrap(sock, parameters, endpoint, deadline)
            wire = Wire(endpoint, sock, parameters, self._heartbeat(endpoint))
            wire.blocked_timeout = self._blocked_timeout(parameters)
            _shake_hands(wire, deadline)
        except BaseException:
            sock.close()
            raise
        monitor.watch(wire, self.on_dead)
        return wire

    def sever(self, connection: Wire) -> None:
        connection.sever("severed: this process leaves the broker")

    def abandon(self, connection: Wire) -> None:
        connection.abandon()

    def is_alive(self, connection: Wire) -> bool:
        return connection.is_alive()

    def discard(self, connection: Wire) -> None:
        connection.discard()

    def _heartbeat(self, endpoint: Endpoint) -> int:
        """Seconds, whole ones as AMQP has it."""
        milliseconds = endpoint.options.heartbeat
        if milliseconds is None:
            milliseconds = self._uri.options.heartbeat
        return 0 if milliseconds == 0 else max(round(milliseconds / 1000), 1)

    def _blocked_timeout(self, parameters: Any) -> float:
        ours = self._uri.options.blocked_timeout / 1000
        theirs = parameters.blocked_connection_timeout
        limits = [limit for limit in (ours, theirs) if limit is not None and limit >= 0]
        return min(limits, default=-1.0)


def _connect(parameters: Any, deadline: Deadline) -> socket.socket:
    """TCP to the first address that answers; each gets its share of the time that is left."""
    found = socket.getaddrinfo(
        parameters.host, parameters.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    problem: OSError = TimeoutError("no time was left to connect")
    for number, (family, kind, protocol, _, address) in enumerate(found):
        share = deadline.remaining() / (len(found) - number)
        if share <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(share)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_sock_opts(parameters.tcp_options, sock)
            return sock
        except OSError as exc:
            sock.close()
            problem = exc
        except BaseException:
            sock.close()
            raise
    raise problem


def _wrap(
    sock: socket.socket, parameters: Any, endpoint: Endpoint, deadline: Deadline
) -> ssl.SSLSocket:
    context = parameters.ssl_options.context
    name = (
        endpoint.options.server_hostname
        or parameters.ssl_options.server_hostname
        or parameters.host
    )
    sock.settimeout(max(deadline.remaining(), 0.001))
    wrapped: ssl.SSLSocket = context.wrap_socket(sock, server_hostname=name)
    return wrapped


def _shake_hands(wire: Wire, deadline: Deadline) -> None:
    wire.start()
    while not wire.is_open:
        wire.serve()
        if wire.lost is not None:
            raise wire.lost.cause or wire.lost
        if wire.is_open:
            return
        if deadline.remaining() <= 0:
            raise TimeoutError(f"no handshake within {deadline.seconds:g} s")
        wire.poll(deadline.remaining())
