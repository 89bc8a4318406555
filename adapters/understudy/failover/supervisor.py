"""The shell around the failover machine: one for each URI and process.

What callers see of it. The machine and what it governs are in `control`, the threads that dial in
`dialing`.

Rules
* Callers wait without the lock (see `waiters`), and never longer than they say.
* Where no thread can be started any more the waiting caller does the work himself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Generic, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.events import Event
from understudy.core.happenings import Closed, Listed, Lost, Prefer, Spares
from understudy.core.redact import redact
from understudy.core.uri import FailoverURI
from understudy.errors import Attempt, ConnectFailed, ReentrancyError
from understudy.failover.control import Control
from understudy.failover.deadline import Deadline
from understudy.failover.dialer import Dialer
from understudy.failover.dialing import Dialing
from understudy.failover.notifier import EventCallback, Notifier
from understudy.failover.waiters import Waiter

__all__ = ["Supervisor"]

C = TypeVar("C")

SLICE = 0.1  # s between two looks at `on_wait`; well below the 5 s in which a worker has to stop


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
        #: called without the lock after a user came, and after close(); `is_used` tells which
        self.on_use: Callable[[], None] | None = None
        self._control = Control(uri, dialer, on_event, rng or random.Random())
        self._dialing = Dialing(self._control)
        self._machine = self._control.machine
        self._connections = self._control.connections
        self._spares = self._control.spares

    def __repr__(self) -> str:
        return f"<Supervisor of {self.uri}: {self._machine!r}>"

    # --- state: never blocks for longer than another thread's bookkeeping ------------------------

    @property
    def current(self) -> Endpoint | None:
        """The endpoint in use, or None."""
        return self._machine.current

    @property
    def notifier(self) -> Notifier:
        return self._control.notifier

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

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is at work in here: it is in a signal handler."""
        return self._control.lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    def epoch_of(self, connection: C) -> int:
        """The epoch that a connection was handed out in; -1 for one that is over."""
        return self._connections.epoch_of(connection)

    # --- connections ----------------------------------------------------------------------------

    def attach(self, user: object) -> None:
        """While there is a user, spares are held and a lost connection is replaced unasked."""
        with self._control.lock:
            self._control.users.add(user)
            self._dialing.ensure_threads()
            self._control.notify()
        if self.on_use is not None:
            self.on_use()

    @property
    def is_used(self) -> bool:
        """Whether there is a user, or somebody who waits for a connection."""
        with self._control.lock:
            return not self._control.is_closed and self._control.is_needed

    def has_users_besides(self, user: object) -> bool:
        with self._control.lock:
            return any(other is not user for other in self._control.users)

    def detach(self, user: object) -> None:
        """This user needs nothing any more; with the last one go all idle connections."""
        with self._control.lock:
            self._control.users.discard(user)
            if self._control.is_needed:
                return
            idle = self._control.clear_idle()
            self._control.feed(Spares(()))
        for connection in idle:
            self.dialer.discard(connection)

    def acquire(self, deadline: Deadline, on_wait: Callable[[], None] | None = None) -> C:
        """Return a connection of the current epoch, dialing as long as it takes.

        ``on_wait`` is called about every 100 ms while waiting; what it raises ends the wait. Raises
        DeadlinePassed, ConnectFailed when the machine gave up, or ReentrancyError in a signal
        handler that has interrupted this thread in here, so that no other could connect.
        """
        if self.is_mine:
            raise ReentrancyError
        control = self._control
        waiter = Waiter()
        try:
            with control.lock:
                given_up = control.failures
                control.waiters.add(waiter)
                control.want()
                control.notify()
            while True:
                with control.lock:
                    connection = self._take_ready()
                    if connection is not None:
                        control.waiters.discard(waiter)  # under the same lock: no other is dialed
                        return connection
                    if control.failures != given_up:
                        assert control.failure is not None
                        reason, failed = control.failure
                        raise ConnectFailed(reason, failed.attempts)
                    if self._dialing.use_urgent_spare():
                        continue
                    deadline.check()
                    if deadline.seconds is not None:
                        control.want()
                    working = self._dialing.ensure_threads()
                if working:
                    waiter.wait(min(deadline.remaining(), SLICE))
                else:
                    self._dialing.work(min(deadline.remaining(), SLICE))
                if on_wait is not None:
                    on_wait()
        finally:
            control.waiters.discard(waiter)

    def _take_ready(self) -> C | None:
        while (connection := self._connections.take()) is not None:
            if self.dialer.is_alive(connection):
                return connection
            self.dialer.sever(connection)
            self._lost(connection, "closed by the peer while nobody used it")
        return None

    def hurry(self) -> None:
        """Somebody waits with a deadline: cut short a delay that has grown long."""
        with self._control.lock:
            self._control.want()

    def lost(self, connection: C, reason: str) -> None:
        """A connection broke, or is taken for dead: leave its endpoint if that is still current."""
        self.dialer.sever(connection)
        with self._control.lock:
            self._lost(connection, reason)

    def _lost(self, connection: C, reason: str) -> None:
        epoch = self._connections.forget(connection)
        if epoch is not None:
            self._control.feed(Lost(epoch, redact(reason)))
        elif self._spares.forget(connection):
            self._control.feed(Spares(self._spares.endpoints))

    def released(self, connection: C) -> None:
        """The taker has closed a connection himself; nothing is wrong with the endpoint."""
        with self._control.lock:
            self._connections.forget(connection)

    def found(
        self,
        endpoints: tuple[Endpoint, ...],
        *,
        rebalance: bool = False,
        troubles: tuple[Attempt, ...] = (),
    ) -> None:
        """Discovery knows these endpoints beside the configured ones.

        ``rebalance``: if that is a change, move to where a new connection would go. ``troubles``:
        why a source has found none, for the errors of who cannot connect.
        """
        with self._control.lock:
            self._control.feed(Listed(endpoints, rebalance, troubles))
            gone = self._dialing.forget_all_but(set(self._machine.endpoints))
        for connection in gone:
            self.dialer.discard(connection)

    def prefer(self, endpoint: Endpoint, reason: str) -> None:
        """Move there now, unless we are on a priority endpoint."""
        with self._control.lock:
            self._control.feed(Prefer(endpoint, reason))

    def tell(self, event: Event) -> None:
        self.notifier.tell(event)

    def close(self) -> None:
        """Sever everything and end the thread; waiting callers get ConnectFailed("closed")."""
        with self._control.lock:
            self._control.feed(Closed())
            for connection in self._control.clear_idle():
                self.dialer.discard(connection)
        if self.on_use is not None:
            self.on_use()
        self.notifier.close()
