"""The shell around the failover machine: one for each URI and process.

Rules
* One daemon thread dials what callers wait for, so that a caller can stop waiting at its deadline,
  at a signal or at close() while an attempt goes on, and reconnecting goes on when nobody waits any
  more. Another one, only where the URI asks for spares, dials those: a silent endpoint that nobody
  needs now delays nobody.
* The machine decides under the lock; dialing happens outside it. Severing only shuts sockets down,
  which never blocks, so it may happen under the lock.
* A connection is in exactly one place: `_spares` (to another endpoint, for later) or
  `_connections` (to the current endpoint, waiting for a taker or with him).
* The lock is entered itself, never by its condition: an exception of a signal handler inside
  Condition.__enter__, which is Python code, would leave it locked for good. Callers wait without
  it (see `waiters`).
* Nobody is told anything under the lock but the notifier, which only queues; our threads never
  run a log handler or a callback of the application's.
* What is dialed for somebody who has left meanwhile is closed, unless somebody else can use it.
* At interpreter exit no thread can be started any more: then the waiting caller does the work
  itself.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Generic, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.events import Event
from understudy.core.happenings import (
    Action,
    Closed,
    Dial,
    Dialed,
    DialFailed,
    Fail,
    Happening,
    Hurry,
    Leave,
    Listed,
    Lost,
    Prefer,
    Spares,
    Tell,
    TimeUp,
    Wait,
    Wanted,
)
from understudy.core.machine import Machine, State
from understudy.core.redact import redact
from understudy.core.uri import FailoverURI
from understudy.errors import Attempt, ConnectFailed
from understudy.failover import forking
from understudy.failover.connections import Connections
from understudy.failover.deadline import Deadline
from understudy.failover.dialer import Dialer, TellsRefusals
from understudy.failover.notifier import EventCallback, Notifier
from understudy.failover.spares import SparePool
from understudy.failover.waiters import Waiter, Waiters
from understudy.failover.worker import Job, Worker

__all__ = ["Supervisor"]

C = TypeVar("C")

SLICE = 0.1  # s between two looks at `on_wait`; well below the 5 s in which a worker has to stop


#: errors of this process itself: another endpoint could not be dialed either
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class Supervisor(Generic[C]):
    """Keeps one process on one broker of a list, and hands out connections to it."""

    def __init__(
        self,
        uri: FailoverURI,
        dialer: Dialer[C],
        *,
        on_event: EventCallback | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.uri = uri
        self.dialer = dialer
        self.notifier = Notifier(on_event)
        #: called without the lock after a user came, and after close(); `is_used` tells which
        self.on_use: Callable[[], None] | None = None
        self._machine = Machine(
            uri.endpoints,
            uri.options,
            rng or random.Random(),
        )
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiters = Waiters()
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._connections: Connections[C] = Connections(dialer)
        self._spares: SparePool[C] = SparePool(uri.options, dialer)
        self._pass_dial: Endpoint | None = None  # what the machine wants dialed now
        self._due: float | None = None  # when its delay is over
        self._since = 0.0  # when it began
        self._failures = 0  # how often the machine gave up
        self._failure: tuple[str, ConnectFailed] | None = None
        self._logged: dict[Endpoint, str] = {}  # the cause already logged for each endpoint
        self._dialing = self._worker("understudy-supervisor", self._next_job, self._is_needed)
        self._sparing = self._worker(
            "understudy-spares", self._next_spare_job, lambda: len(self._users) > 0
        )
        forking.register(self)

    def __repr__(self) -> str:
        return f"<Supervisor of {self.uri}: {self._machine!r}>"

    # --- state: never blocks for longer than another thread's bookkeeping ------------------------

    @property
    def current(self) -> Endpoint | None:
        """The endpoint in use, or None."""
        return self._machine.current

    @property
    def epoch(self) -> int:
        return self._machine.epoch

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self._machine.endpoints

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Why each endpoint failed last, in the present outage."""
        return self._machine.attempts

    def epoch_of(self, connection: C) -> int:
        """The epoch that a connection was handed out in; -1 for one that is over."""
        return self._connections.epoch_of(connection)

    # --- connections ----------------------------------------------------------------------------

    def attach(self, user: object) -> None:
        """While there is a user, spares are held and a lost connection is replaced unasked."""
        with self._lock:
            self._users.add(user)
            self._ensure_threads()
            self._notify()
        if self.on_use is not None:
            self.on_use()

    @property
    def is_used(self) -> bool:
        """Whether there is a user, or somebody who waits for a connection."""
        with self._lock:
            return self._machine.state is not State.CLOSED and self._is_needed()

    def has_users_besides(self, user: object) -> bool:
        with self._lock:
            return any(other is not user for other in self._users)

    def detach(self, user: object) -> None:
        """This user needs nothing any more; with the last one go all idle connections."""
        with self._lock:
            self._users.discard(user)
            if self._is_needed():
                return
            idle = [*self._connections.clear_ready(), *self._spares.clear()]
            self._feed(Spares(()))
        for connection in idle:
            self.dialer.discard(connection)

    def acquire(self, deadline: Deadline, on_wait: Callable[[], None] | None = None) -> C:
        """Return a connection of the current epoch, dialing as long as it takes.

        ``on_wait`` is called about every 100 ms while waiting; what it raises ends the wait. Raises
        DeadlinePassed, or ConnectFailed when the machine gave up.
        """
        waiter = Waiter()
        try:
            with self._lock:
                given_up = self._failures
                self._waiters.add(waiter)
                self._want()
                self._notify()
            while True:
                with self._lock:
                    connection = self._take_ready()
                    if connection is not None:
                        self._waiters.discard(waiter)  # under the same lock: no other is dialed
                        return connection
                    if self._failures != given_up:
                        assert self._failure is not None
                        reason, failed = self._failure
                        raise ConnectFailed(reason, failed.attempts)
                    urgent = self._pass_dial
                    if urgent is not None and self._use_spare(urgent, self._pass_dialed):
                        continue
                    deadline.check()
                    if deadline.seconds is not None:
                        self._want()
                    working = self._ensure_threads()
                if working:
                    waiter.wait(min(deadline.remaining(), SLICE))
                else:
                    self._dialing.work(min(deadline.remaining(), SLICE))
                if on_wait is not None:
                    on_wait()
        finally:
            self._waiters.discard(waiter)

    def _take_ready(self) -> C | None:
        while (connection := self._connections.take()) is not None:
            if self.dialer.is_alive(connection):
                return connection
            self.dialer.sever(connection)
            self._lost(connection, "closed by the peer while nobody used it")
        return None

    def hurry(self) -> None:
        """Somebody waits with a deadline: cut short a delay that has grown long."""
        with self._lock:
            self._want()

    def lost(self, connection: C, reason: str) -> None:
        """A connection broke, or is taken for dead: leave its endpoint if that is still current."""
        self.dialer.sever(connection)
        with self._lock:
            self._lost(connection, reason)

    def _lost(self, connection: C, reason: str) -> None:
        epoch = self._connections.forget(connection)
        if epoch is not None:
            self._feed(Lost(epoch, redact(reason)))
        elif self._spares.forget(connection):
            self._feed(Spares(self._spares.endpoints))

    def released(self, connection: C) -> None:
        """The taker has closed a connection himself; nothing is wrong with the endpoint."""
        with self._lock:
            self._connections.forget(connection)

    def found(self, endpoints: tuple[Endpoint, ...], *, rebalance: bool = False) -> None:
        """Discovery knows these endpoints beside the configured ones.

        ``rebalance``: if that is a change, move to where a new connection would go.
        """
        with self._lock:
            self._feed(Listed(endpoints, rebalance))
            known = set(self._machine.endpoints)  # what is no longer announced leaves no trace
            gone = self._spares.keep(known)
            if gone:
                self._feed(Spares(self._spares.endpoints))
            for endpoint in self._logged.keys() - known:
                del self._logged[endpoint]
        for connection in gone:
            self.dialer.discard(connection)

    def prefer(self, endpoint: Endpoint, reason: str) -> None:
        """Move there now, unless we are on a priority endpoint."""
        with self._lock:
            self._feed(Prefer(endpoint, reason))

    def tell(self, event: Event) -> None:
        self.notifier.tell(event)

    def close(self) -> None:
        """Sever everything and end the thread; waiting callers get ConnectFailed("closed")."""
        with self._lock:
            self._feed(Closed())
            for connection in [*self._connections.clear_ready(), *self._spares.clear()]:
                self.dialer.discard(connection)
        if self.on_use is not None:
            self.on_use()
        self.notifier.close()

    # --- the threads ----------------------------------------------------------------------------

    def _worker(
        self, name: str, next_job: Callable[[float], Job], is_needed: Callable[[], bool]
    ) -> Worker:
        return Worker(
            name,
            self._changed,
            next_job,
            is_needed=is_needed,
            is_over=lambda: self._machine.state is State.CLOSED,
        )

    def _ensure_threads(self) -> bool:
        if self._spares.are_asked_for:
            self._sparing.ensure()
        return self._dialing.ensure()

    def _next_job(self, now: float) -> Job:
        if not self._is_needed():
            return None
        if self._due is not None:
            if now < self._due:
                return self._due
            self._due = None
            self._feed(TimeUp())
        endpoint, current, epoch = self._pass_dial, self._machine.current, self._machine.epoch
        if endpoint is not None:
            return lambda: self._dial(endpoint, self._pass_dialed, self._pass_failed)
        if current is not None and len(self._waiters) > self._connections.ready:
            return lambda: self._dial(
                current, self._further_dialed, lambda failed: self._further_failed(epoch, failed)
            )
        return None

    def _next_spare_job(self, now: float) -> Job:
        if not self._users:
            return None
        before = self._spares.endpoints
        wanted = self._spares.wanted(self._machine, now)
        if self._spares.endpoints != before:  # some have died
            self._feed(Spares(self._spares.endpoints))
        if wanted is not None:
            return lambda: self._dial(wanted, self._spare_dialed, self._spare_failed)
        settled = self._spares.settled(self._machine, now)
        if settled is not None:
            return lambda: self.prefer(settled, "a priority endpoint is back and stable")
        return self._spares.due(self._machine)

    def _is_needed(self) -> bool:
        return len(self._waiters) > 0 or len(self._users) > 0

    def _dial(
        self,
        endpoint: Endpoint,
        arrived: Callable[[Endpoint, C], None],
        failed: Callable[[DialFailed], None],
    ) -> None:
        """Dial outside the lock, then report under it."""
        with self._lock:
            if self._use_spare(endpoint, arrived):
                return
        timeout = self.uri.options.connect_timeout / 1000
        try:
            connection = self.dialer.dial(endpoint, timeout)
        except Exception as exc:
            cause = redact(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)
            failure = DialFailed(endpoint, cause, self._is_refusal(exc))
            with self._lock:
                self._log_cause(endpoint, cause)
                failed(failure)
            return
        with self._lock:
            self._logged.pop(endpoint, None)
            arrived(endpoint, connection)

    def _is_refusal(self, exc: Exception) -> bool:
        if isinstance(self.dialer, TellsRefusals) and self.dialer.is_refusal(exc):
            return True
        return any(isinstance(e, OSError) and e.errno in NO_DESCRIPTOR for e in _causes(exc))

    def _use_spare(self, endpoint: Endpoint, arrived: Callable[[Endpoint, C], None]) -> bool:
        """Report a spare instead of dialing, if there is one."""
        before = self._spares.endpoints
        spare = self._spares.take(endpoint, time.monotonic())
        if self._spares.endpoints != before:
            self._feed(Spares(self._spares.endpoints))
        if spare is not None:
            arrived(endpoint, spare)
        return spare is not None

    def _pass_dialed(self, endpoint: Endpoint, connection: C) -> None:
        if self._pass_dial != endpoint:  # the machine has gone on meanwhile
            self.dialer.discard(connection)
            return
        self._pass_dial = None
        self._feed(Dialed(endpoint))
        self._further_dialed(endpoint, connection)

    def _pass_failed(self, failure: DialFailed) -> None:
        if self._pass_dial == failure.endpoint:
            self._pass_dial = None
            self._feed(failure)

    def _further_dialed(self, endpoint: Endpoint, connection: C) -> None:
        if self._machine.current != endpoint or not self._is_needed():
            self.dialer.discard(connection)
            return
        self._connections.arrived(connection, self._machine.epoch)
        self._feed(Dialed(endpoint))

    def _further_failed(self, epoch: int, failure: DialFailed) -> None:
        if self._machine.epoch == epoch:
            is_refusal = failure.is_refusal and self._connections.are_served(epoch)
            self._feed(replace(failure, is_refusal=is_refusal))

    def _spare_dialed(self, endpoint: Endpoint, connection: C) -> None:
        if self._pass_dial == endpoint:  # it has become urgent meanwhile
            self._pass_dialed(endpoint, connection)
            return
        is_of_use = self._users and endpoint in self.endpoints and endpoint != self.current
        if (
            is_of_use
            and self._machine.state is not State.CLOSED
            and self._spares.add(endpoint, connection, time.monotonic())
        ):
            self._feed(Spares(self._spares.endpoints))
        else:
            self.dialer.discard(connection)

    def _spare_failed(self, failure: DialFailed) -> None:
        self._spares.failed(failure.endpoint, time.monotonic())

    def _log_cause(self, endpoint: Endpoint, cause: str) -> None:
        """Once for each endpoint and cause, not at every pass."""
        if self._logged.get(endpoint) != cause:
            self._logged[endpoint] = cause
            self.notifier.log(logging.WARNING, f"cannot connect to {endpoint}: {cause}")

    # --- the machine's orders -------------------------------------------------------------------

    def _want(self) -> None:
        """Feed Wanted. Waiting callers repeat it: it wakes nobody unless it changes something."""
        due = self._due
        actions = self._machine.receive(Wanted())
        for action in actions:
            self._obey(action)
        if self._due != due or not all(isinstance(action, Hurry) for action in actions):
            self._notify()

    def _feed(self, happening: Happening) -> None:
        for action in self._machine.receive(happening):
            self._obey(action)
        self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        self._waiters.ring()

    def _obey(self, action: Action) -> None:
        match action:
            case Dial(endpoint):
                self._pass_dial, self._due = endpoint, None
            case Wait(ms):
                self._pass_dial, self._since = None, time.monotonic()
                self._due = self._since + ms / 1000
            case Hurry(ms):
                if self._due is not None:
                    self._due = min(self._due, self._since + ms / 1000)
            case Leave(epoch):
                self._connections.leave(epoch)
            case Tell(event):
                self.notifier.tell(event)
            case Fail(reason, attempts):
                self._pass_dial = self._due = None
                self._failures += 1
                self._failure = (reason, ConnectFailed(reason, attempts))
                self._waiters.dismiss()

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self.notifier.hold()
        self._changed.acquire()

    def let_go(self) -> None:
        self._changed.release()
        self.notifier.let_go()

    def abandon(self) -> None:
        """In a forked child this supervisor is history; the child makes its own."""
        for connection in [*self._connections.clear(), *self._spares.clear()]:
            with contextlib.suppress(Exception):
                self.dialer.abandon(connection)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.notifier = Notifier()  # the other's lock may be held by a thread that is no more
        with self._lock:
            self._feed(Closed())


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was made of."""
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
