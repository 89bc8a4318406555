"""The kombu transport behind ``failover:(…)``.

Rules
* kombu's `Connection` parses nothing: it hands us the whole URI, and we hide it behind a
  `MaskedURI` before anyone can print it.
* `establish_connection` returns the candidate's own raw connection, and everything kombu does with
  that goes to the candidate's own transport. Only finding a broker, publishing and leaving a broker
  are ours.
* A loss that kombu sees (while consuming) is reported to the supervisor and raised as it is:
  Celery and ConsumerMixin start their consumers again through `establish_connection`.
* Whoever consumes is told of a loss exactly once: until it was raised to him (`loss_was_raised`)
  his dead connection passes for a living one, else kombu would connect anew without a word and
  without his consumers.
* An establishment that somebody's send waits for is bounded by ``timeout``, together with that
  send (see `calls`); that of a consuming loop (worker, beat, ConsumerMixin) is not.
* A producer of tracked messages does not wait for a broker (see `standby`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import amqp
from kombu.connection import Connection

from understudy import errors
from understudy.core.redact import redact
from understudy.errors import ConfigurationError
from understudy.failover import forking
from understudy.failover.deadline import NEVER, Deadline, DeadlinePassed
from understudy.failover.interruptions import is_of_signal_handler
from understudy.kombu import celery
from understudy.kombu.calls import CallDeadline, is_for_a_consuming_loop, is_for_a_producer
from understudy.kombu.candidates import CandidatesTransport
from understudy.kombu.errors import CLOSED, ConnectFailed, ConnectionLost, SendTimeout, Unroutable
from understudy.kombu.inner import GOODBYE, Inner, inner_of
from understudy.kombu.logical import LogicalBroker, broker_for
from understudy.kombu.masking import MaskedURI
from understudy.kombu.message import OutMessage, Publication
from understudy.kombu.publisher import Publisher
from understudy.kombu.standby import DEFERRABLE, NobodyThere, Standby, deferred_answer
from understudy.kombu.topology import Declaration
from understudy.kombu.waiting import replies_until

__all__ = ["Transport"]

AT_ONCE = 0.1  # s that a tracked send waits for the connection that kombu wants for it


class Transport(CandidatesTransport):
    def __init__(self, client: Connection, **kwargs: Any) -> None:
        self.is_closed = False  # by the application: nobody waits in here any more
        self._is_collected = False
        self._client: Any = client
        self.client_ref = weakref.ref(client)
        if client.alt and len(client.alt) > 1:
            raise ConfigurationError(
                "a failover URI stands alone: put all brokers into one failover:(a,b) "
                "instead of a list, and write a semicolon, which makes kombu see a list, as %3B"
            )
        masked = MaskedURI(client.hostname or "")
        client.hostname = client._initial_params["hostname"] = masked
        self._generation = -1
        self._publisher: Publisher | None = None
        self._inner = None
        self._call = CallDeadline()
        self._is_real_wanted = False  # by a standby channel, also while a producer publishes
        self._gives_way = False  # it can do without, where nobody is there
        self._answer_for_candidates()

    @property
    def client(self) -> Any:
        """The application's Connection; None once kombu has closed it."""
        return self._client

    @client.setter
    def client(self, client: Any) -> None:
        """The only sign that kombu gives of a close while there is no connection yet."""
        self._client = client
        is_ours = self._generation == forking.generation()
        if client is None and is_ours and not self._is_collected and not self.is_closed:
            self._let_go(None)

    @property
    def broker(self) -> LogicalBroker:
        """What this process shares for the URI; another one in a forked child."""
        if self._generation != forking.generation():
            self._generation = forking.generation()
            self._broker = broker_for(self.client)
            self._publisher = None
            self._inner = None
        return self._broker

    # --- connections ----------------------------------------------------------------------------

    def establish_connection(self) -> Any:
        self.is_closed = self._is_collected = False
        broker = self.broker
        broker.supervisor.attach(self)
        inner = self._adopt()
        if inner is None and self._may_stand_by:
            inner = self._acquire_at_once(broker)
            if inner is None:
                return Standby(self)
        if inner is None:
            inner = self._acquire(broker)
        inner.belong_to(self)
        self._inner = weakref.ref(inner)
        return inner.raw

    def _acquire(self, broker: LogicalBroker) -> Inner:
        deadline = NEVER if is_for_a_consuming_loop() else self.deadline()
        try:
            return broker.acquire(deadline, self._look_around)
        except DeadlinePassed:
            limit = broker.options.timeout
            raise SendTimeout(
                f"no broker could be reached within timeout={limit} ms", attempts=broker.attempts
            ) from None
        except errors.ConnectFailed as exc:
            raise self._given_up(exc) from exc

    @property
    def _may_stand_by(self) -> bool:
        """Whether who wants a connection now can do without."""
        options = self._broker.options
        if not (options.track_messages and options.reconnect) or self._is_real_wanted:
            return False
        return is_for_a_producer()

    def _acquire_at_once(self, broker: LogicalBroker) -> Inner | None:
        supervisor = broker.supervisor
        if supervisor.epoch and supervisor.current is None:
            return None
        try:
            return broker.acquire(Deadline(AT_ONCE), self.check_open)
        except DeadlinePassed:
            return None
        except errors.ConnectFailed as exc:
            raise self._given_up(exc) from exc

    def open_real_channel(self, *, gives_way: bool = False) -> Any:
        """For a standby channel, when it is asked for what needs a broker.

        With ``gives_way`` raises NobodyThere where it would have to wait for one.
        """
        self._is_real_wanted, self._gives_way = True, gives_way
        try:
            return self.client.channel()
        finally:
            self._is_real_wanted = self._gives_way = False

    def _look_around(self) -> None:
        """While a connection is waited for."""
        self.check_open()
        if self._gives_way and self.broker.supervisor.current is None:
            raise NobodyThere

    def _given_up(self, exc: errors.ConnectFailed) -> Exception:
        if not self.broker.options.reconnect and self.broker.supervisor.epoch:
            return ConnectionLost(str(exc))
        return ConnectFailed(str(exc).partition("\n")[0], exc.attempts)

    def _adopt(self) -> Inner | None:
        """The publisher's connection serves the application too, as long as it does not consume."""
        inner = None if self._publisher is None else self._publisher.inner
        return inner if inner is not None and inner.is_alive() else None

    def lend(self) -> Inner | None:
        """The application's connection, for publishing, if it is healthy and nobody reads it."""
        inner = None if self._inner is None else self._inner()
        if inner is None or not inner.is_for_publishing or not inner.is_alive():
            return None
        return inner

    def check_open(self) -> None:
        """Raise ConnectionLost once the application has closed its Connection."""
        if self.is_closed:
            raise ConnectionLost(CLOSED)

    def lost(self, inner: Inner, exc: BaseException) -> None:
        """A connection failed while kombu used it, and whoever consumes there is told."""
        inner.loss_was_raised = True
        if inner.was_interrupted:
            self.broker.supervisor.released(inner)
            return
        inner.sever(redact(f"{type(exc).__name__}: {exc}"))
        self.broker.supervisor.lost(inner, str(inner.dead))

    def patience(self) -> float | None:
        """Seconds that a broker may take to answer a request of the application's."""
        if celery.is_stopping():
            return GOODBYE
        limit = self.broker.options.timeout
        return limit / 1000 if limit > 0 else None

    def verify_connection(self, connection: Any) -> bool:
        if isinstance(connection, Standby):
            is_over = self.broker.supervisor.current is not None and connection.is_worth_a_retry
            return self._may_stand_by and not is_over
        inner = inner_of(connection)
        if inner is None:
            return False
        if inner.dead is None and inner.transport.verify_connection(connection):
            return True
        # else kombu would connect anew without a word, and without the consumers
        return inner.consumes and not inner.loss_was_raised

    def close_connection(self, connection: Any) -> None:
        try:
            self.broker.flush_at_close()
        finally:
            self._let_go(inner_of(connection))

    def _let_go(self, inner: Inner | None) -> None:
        self.is_closed = True
        broker = self.broker
        for mine in self._all_of_mine(inner):
            broker.supervisor.released(mine)
            mine.close(self._goodbye(mine))
        broker.detach(self)

    def _all_of_mine(self, inner: Inner | None) -> list[Inner]:
        """The application's connection and the publisher's, which lets go of it."""
        published_on = None if self._publisher is None else self._publisher.close()
        return list(dict.fromkeys(i for i in (inner, published_on) if i is not None))

    def _goodbye(self, inner: Inner) -> float:
        return GOODBYE if inner.is_alive() and not inner.is_suspect else 0.0

    def _collect(self, connection: Any) -> None:
        """kombu drops a connection without closing it: after an error, or after a fork."""
        self._is_collected = True
        inner = inner_of(connection)
        if inner is None:
            return
        if inner.dead is None and not inner.is_alive():
            self.lost(inner, amqp.exceptions.RecoverableConnectionError("connection broken"))
        for mine in self._all_of_mine(inner):
            self.broker.supervisor.released(mine)
            mine.sever("collected")
            mine.close(0.0)

    def create_channel(self, connection: Any) -> Any:
        """On another connection if this one turns out to be broken and nothing consumes on it."""
        deadline = self.deadline()
        try:
            with self._call.shared(deadline):
                return self._create_channel(connection, deadline)
        finally:
            self._call.forget()

    def _create_channel(self, connection: Any, deadline: Deadline) -> Any:
        while not isinstance(connection, Standby):
            try:
                with replies_until(connection, deadline):
                    return self._passed(connection, methodcaller("create_channel", connection))
            except self.client_ref().recoverable_connection_errors as exc:  # type: ignore[union-attr]
                inner = inner_of(connection)
                if inner is None or inner.consumes or self.verify_connection(connection):
                    raise
                self.check_open()
                if deadline.remaining() <= 0:
                    limit = self.broker.options.timeout
                    text = f"no channel could be opened within timeout={limit} ms: {exc}"
                    raise SendTimeout(text, attempts=self.broker.attempts) from exc
                connection = self.client.connection  # kombu connects anew
        return connection.channel()

    def drain_events(self, connection: Any, **kwargs: Any) -> Any:
        inner = inner_of(connection)
        if inner is not None:
            inner.is_drained = True
        return self._passed(connection, lambda t: t.drain_events(connection, **kwargs))

    def heartbeat_check(self, connection: Any, rate: int = 2) -> Any:
        return self._passed(connection, lambda t: t.heartbeat_check(connection, rate=rate))

    def _passed(self, connection: Any, call: Callable[[Any], Any]) -> Any:
        """Have the candidate's transport do it; a broken connection is told to the supervisor."""
        inner = inner_of(connection)
        if inner is None:
            raise amqp.exceptions.RecoverableConnectionError("connection already closed")
        try:
            return call(inner.transport)
        except TimeoutError:
            raise
        except self.client_ref().connection_errors as exc:  # type: ignore[union-attr]
            if inner.is_broken and not is_of_signal_handler(exc):
                # else it comes from a callback of the application's
                self.lost(inner, exc)
            raise

    # --- publishing -----------------------------------------------------------------------------

    @property
    def publisher(self) -> Publisher:
        broker = self.broker  # first: it rebinds after a fork
        if self._publisher is None:
            self._publisher = Publisher(self)
            broker.supervisor.attach(self)
        return self._publisher

    def publish(
        self,
        message: OutMessage,
        exchange: str,
        routing_key: str,
        *,
        mandatory: bool,
        immediate: bool,
        limits: tuple[float | None, ...],
        on_return: Callable[[Exception, str, str, Any], None],
    ) -> None:
        """One send of the application's, from any of its channels."""
        broker = self.broker
        is_told = mandatory or (message.is_task and not broker.topology.is_fanout(exchange))
        deadline = self.deadline(limits, is_last=True)
        if exchange and not message.is_task and celery.is_worker():
            deadline = celery.UntilStop(deadline, GOODBYE)  # an event, or a reply to an inspect
        publication = Publication(message, exchange, routing_key, is_told, immediate)
        try:
            if broker.options.track_messages:
                broker.tracked.put(publication, deadline)
                return
            self.publisher.publish(publication, deadline)
        except Unroutable as exc:
            on_return(exc, exchange, routing_key, message)
            raise
        except SendTimeout as exc:
            inner = self.publisher.inner
            if inner is not None and celery.is_stopping():
                self.lost(inner, exc)  # one silence is enough: no goodbye to its siblings
            raise
        except errors.ConnectFailed as exc:
            if isinstance(exc, ConnectFailed):
                raise
            raise self._given_up(exc) from exc

    def declare(self, call: Declaration, deadline: Deadline) -> Any:
        """A declaration of the application's on a channel whose connection is gone."""
        return self.publisher.declare(call, deadline)

    def defers(self, method: str) -> bool:
        """Whether this declaration of a producer's can wait for a broker without its caller."""
        is_away = self.broker.supervisor.current is None
        return is_away and method in DEFERRABLE and self._may_stand_by

    def defer(self, method: str, arguments: dict[str, Any]) -> Any:
        """Have it declared before the next message that needs it."""
        self.broker.topology.defer(method, arguments)
        return deferred_answer(method, arguments)

    def deadline(self, limits: tuple[float | None, ...] = (), *, is_last: bool = False) -> Deadline:
        """When the application's present call has to be over, by ``timeout`` and ``limits`` (s).

        ``is_last``: the call waits for nothing after this.
        """
        limit = self._broker.options.timeout
        deadline = NEVER
        if limit > 0:
            deadline = self._call.get(lambda: Deadline(limit / 1000), is_last=is_last)
        bounds = [bound for bound in limits if bound]
        if bounds and min(bounds) < deadline.remaining():
            return Deadline(min(bounds))
        return deadline
