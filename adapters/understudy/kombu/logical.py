"""One logical broker: what all connections of this process to one URI share.

That is the supervisor (so that they all are on the same broker), the topology, the outbox of
tracked messages, and the knowledge of how to dial each candidate.
"""

from __future__ import annotations

import difflib
import importlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import amqp
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES

from understudy import discovery, errors
from understudy.core.endpoint import Endpoint
from understudy.core.events import Blocked, Unblocked
from understudy.core.uri import FailoverURI, parse, parse_members
from understudy.errors import Attempt, ConfigurationError
from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.monitor import monitor
from understudy.failover.notifier import EventCallback, checked_callback
from understudy.failover.supervisor import Supervisor
from understudy.failover.without_effect import warn_without_effect
from understudy.kombu import celery
from understudy.kombu.channel import application_channel
from understudy.kombu.errors import ReentrancyError
from understudy.kombu.inner import NOT_FOR_CANDIDATES, ChannelClass, Inner, InnerClient, make_client
from understudy.kombu.masking import raw_uri
from understudy.kombu.registration import SCHEMES
from understudy.kombu.topology import Topology
from understudy.kombu.tracked import TrackedPublisher

__all__ = ["LogicalBroker", "broker_for", "flush"]

CELERY_DEFAULT_HEARTBEAT = 120.0  # s; what a worker asks for when nobody set broker_heartbeat

#: schemes that an announced broker may have, beside those of the configured members: any other
#: kombu transport would be news to the Connections that exist already, and to their error classes
LEARNED_SCHEMES = frozenset({"amqp", "amqps", "pyamqp", "tcp", "ssl"})

#: how a living broker refuses one connection: permissions and limits of a user or vhost (403, 530),
#: a lack of resources (506)
REFUSALS = (
    amqp.exceptions.AccessRefused,
    amqp.exceptions.NotAllowed,
    amqp.exceptions.ResourceError,
)

WITHOUT_EFFECT = {"trackTransactionProducers": "kombu has no transactions"}

#: the pip command for a candidate whose library is missing, by scheme
EXTRAS = {"redis": "redis", "rediss": "redis", "sentinel": "redis"}


class LogicalBroker:
    def __init__(self, uri: FailoverURI, settings: Settings) -> None:
        self.uri = uri
        self.options = uri.options
        self.topology = Topology()
        self.stale_acks = 0
        self._settings = settings
        self._host_heartbeat: float | None = None  # s, where the host's own setting says one
        self.candidates = uri.endpoints or parse_members("amqp://")  # stand for what is learned too
        self.samples = [self._client(endpoint) for endpoint in self.candidates]
        self.supervisor: Supervisor[Inner] = Supervisor(uri, self, on_event=settings.on_event)
        schemes = LEARNED_SCHEMES | {endpoint.scheme for endpoint in uri.endpoints}
        self.discovery = discovery.attach(uri, self.supervisor, schemes=schemes)
        self._tracked: TrackedPublisher | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LogicalBroker {self.supervisor!r}>"

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Why each endpoint could not be connected to, in the present outage."""
        return self.supervisor.attempts

    @property
    def tracked(self) -> TrackedPublisher:
        """The publisher of tracked messages; made when first asked for."""
        with self._lock:
            if self._tracked is None:
                self._tracked = TrackedPublisher(self)
            return self._tracked

    def acquire(self, deadline: Deadline, on_wait: Callable[[], None]) -> Inner:
        """A connection to the current broker; DeadlinePassed, ConnectFailed or ReentrancyError.

        While it waits ``on_wait`` is called; what that raises ends the wait.
        """

        def look_around() -> None:
            on_wait()
            celery.stop_if_asked()

        try:
            return self.supervisor.acquire(deadline, look_around)
        except errors.ReentrancyError:
            raise ReentrancyError from None

    def detach(self, transport: object) -> None:
        """One Connection of the application's is closed; with the last one we leave the broker."""
        self.supervisor.detach(transport)
        if self._tracked is not None and not self.supervisor.has_users_besides(
            self._tracked.sender
        ):
            self._tracked.rest()

    def flush(self, deadline: Deadline) -> bool:
        """Wait until every tracked message is confirmed; False if some are not at the deadline."""
        tracked = self._tracked
        return True if tracked is None else tracked.flush(deadline)

    def flush_at_close(self) -> None:
        """The same within closeTimeout; what is left is logged. Raises what was refused."""
        if self._tracked is None:
            return
        if celery.is_worker():  # it has no except clause for this, and would end
            self._tracked.flush_at_exit()
        else:
            self._tracked.flush_at_close()

    def count_stale_ack(self) -> None:
        self.stale_acks += 1

    def note_declared(self, method: str, arguments: dict[str, Any], inner: Inner) -> None:
        self.topology.record(method, arguments, self.supervisor.epoch_of(inner))

    def note_heartbeat(self, seconds: float) -> None:
        """A heartbeat set by the host (Celery's broker_heartbeat) goes before our default."""
        if seconds and seconds != CELERY_DEFAULT_HEARTBEAT:
            known = self._host_heartbeat
            self._host_heartbeat = seconds if known is None else min(seconds, known)

    # --- the dialer port ------------------------------------------------------------------------

    def dial(self, endpoint: Endpoint, timeout: float) -> Inner:
        inner = Inner(endpoint, self._client(endpoint), cast(ChannelClass, application_channel))
        cast(dict[str, Any], inner.client.transport_options).update(self._blocking_callbacks(inner))
        inner.blocked_timeout = self.options.blocked_timeout / 1000
        inner.connect(timeout)
        monitor.watch(inner, self._died)
        self.discovery.connected(endpoint, inner.raw)
        return inner

    def is_refusal(self, exc: Exception) -> bool:
        return isinstance(exc, REFUSALS)

    def _died(self, connection: Inner, reason: str) -> None:
        connection.sever(reason)  # with the reason: who is blocked in it wakes first, and tells it
        self.supervisor.lost(connection, reason)

    def sever(self, connection: Inner) -> None:
        connection.sever("severed: this process leaves the broker")

    def abandon(self, connection: Inner) -> None:
        connection.abandon()

    def is_alive(self, connection: Inner) -> bool:
        return connection.is_alive()

    def discard(self, connection: Inner) -> None:
        monitor.forget(connection)
        connection.close(patience=0.0)

    def _client(self, endpoint: Endpoint) -> InnerClient:
        settings = self._settings
        return make_client(
            endpoint,
            heartbeat=self._heartbeat(endpoint),
            connect_timeout=self.options.connect_timeout / 1000,
            use_ssl=settings.use_ssl,
            login_method=settings.login_method,
            transport_options=settings.transport_options,
        )

    def _heartbeat(self, endpoint: Endpoint) -> float:
        """Seconds, whole ones as AMQP has it."""
        ours = endpoint.options.heartbeat
        if ours is None:
            ours = self.options.heartbeat
            if self._host_heartbeat and self.uri.origins.get("heartbeat") == "default":
                return self._host_heartbeat
        if ours == 0:
            return 0
        seconds = max(round(ours / 1000), 1)
        return min(seconds, self._host_heartbeat) if self._host_heartbeat else seconds

    def _blocking_callbacks(self, inner: Inner) -> dict[str, Any]:
        if not inner.is_amqp:
            return {}
        theirs = self._settings.transport_options

        def on_blocked(reason: str) -> None:
            inner.blocked_since = time.monotonic()
            self.supervisor.tell(Blocked(str(inner.endpoint), reason))
            if theirs.get("on_blocked"):
                theirs["on_blocked"](reason)

        def on_unblocked() -> None:
            inner.blocked_since = None
            self.supervisor.tell(Unblocked(str(inner.endpoint)))
            if theirs.get("on_unblocked"):
                theirs["on_unblocked"]()

        return {"on_blocked": on_blocked, "on_unblocked": on_unblocked}


class EventHandler(str):
    """An ``on_event`` that can be shown: Celery sends transport_options over remote control."""

    __slots__ = ("callback",)
    callback: EventCallback

    def __new__(cls, callback: EventCallback) -> EventHandler:
        self = super().__new__(cls, getattr(callback, "__qualname__", type(callback).__name__))
        self.callback = callback
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return EventHandler, (self.callback,)


class Settings:
    """What the application's Connection says beside the URI."""

    def __init__(self, client: Connection) -> None:
        options = dict(client.transport_options or {})
        for name in difflib.get_close_matches("understudy", map(str, options), cutoff=0.8):
            if name != "understudy":
                raise ConfigurationError(
                    f"unknown transport option {name!r}; did you mean 'understudy'?"
                )
        given = options.get("understudy") or {}
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f'transport_options["understudy"] must be a mapping of options, not {given!r}'
            )
        ours = dict(given)
        self.on_event: EventCallback | None = _callback(ours.pop("on_event", None))
        if self.on_event is not None:
            client.transport_options = {
                **options,
                "understudy": {**ours, "on_event": EventHandler(self.on_event)},
            }
        self.ours: dict[str, object] = ours
        self.use_ssl = client.ssl
        self.login_method = client.login_method
        self.transport_options: Mapping[str, Any] = {
            name: value for name, value in options.items() if name not in NOT_FOR_CANDIDATES
        }

    def key(self, uri: str) -> tuple[object, ...]:
        """What must be equal for two Connections to share everything."""
        return (
            uri,
            repr(sorted(self.ours.items())),
            self.on_event,
            repr(self.use_ssl),
            self.login_method,
            repr(sorted(self.transport_options.items(), key=lambda item: item[0])),
        )


def _callback(given: Any) -> EventCallback | None:
    if isinstance(given, EventHandler):
        return given.callback
    return checked_callback(given)


class _Process:
    """The logical brokers of this process; a forked child starts with none."""

    def __init__(self) -> None:
        self.brokers: dict[tuple[object, ...], LogicalBroker] = {}
        self.lock = threading.Lock()
        forking.register(self)

    def hold(self) -> None:
        self.lock.acquire()

    def let_go(self) -> None:
        self.lock.release()

    def abandon(self) -> None:
        self.lock = threading.Lock()
        self.brokers = {}


_process = _Process()


def broker_for(client: Connection) -> LogicalBroker:
    """The logical broker behind this Connection; raises ConfigurationError for what can't be."""
    uri = raw_uri(client.hostname or "")
    settings = Settings(client)
    key = settings.key(uri)
    with _process.lock:
        broker = _process.brokers.get(key)
        if broker is None:
            broker = _process.brokers[key] = LogicalBroker(_parse(uri, settings), settings)
    broker.note_heartbeat(float(client.heartbeat or 0))
    return broker


def flush(timeout: float | None = None) -> bool:
    """Wait until every tracked message of this process is confirmed.

    ``timeout`` in seconds, None = as long as it takes. True when all are confirmed. Raises the
    refusal of a tracked message (Refused, Unroutable), or ConnectFailed when reconnecting was given
    up.
    """
    deadline = Deadline(timeout)
    done = [broker.flush(deadline) for broker in list(_process.brokers.values())]
    return all(done)


def _parse(text: str, settings: Settings) -> FailoverURI:
    schemes = (set(TRANSPORT_ALIASES) | {"tcp", "ssl"}) - set(SCHEMES)
    uri = parse(text, options=settings.ours, schemes=schemes, agents=discovery.agent_schemes())
    if uri.scheme == "fanout":
        raise ConfigurationError(
            "fanout: is not supported for kombu yet; use failover:(…), which sends each message to "
            "one broker"
        )
    for endpoint in uri.endpoints:
        _check_importable(endpoint)
    warn_without_effect(uri, WITHOUT_EFFECT, "kombu")
    return uri


def _check_importable(endpoint: Endpoint) -> None:
    """A candidate that can never work is found now, not in the middle of a failover."""
    scheme = {"tcp": "amqp", "ssl": "amqps"}.get(endpoint.scheme, endpoint.scheme)
    target = TRANSPORT_ALIASES.get(scheme)
    if not isinstance(target, str):
        return
    try:
        importlib.import_module(target.partition(":")[0])
    except ImportError as exc:
        extra = EXTRAS.get(endpoint.scheme)
        package = f'"understudy[{extra}]"' if extra else f'"kombu[{endpoint.scheme}]"'
        raise ConfigurationError(
            f"{endpoint} needs a package that is missing ({exc}): pip install {package}"
        ) from exc
