"""The failover machine under its lock: what happens is fed to it, and what it orders is done.

Rules
* The machine decides under the lock; dialing happens outside it. Severing only shuts sockets down,
  which never blocks, so it may happen under the lock.
* A connection is in exactly one place: `spares` (to another endpoint, for later) or `connections`
  (to the current endpoint, waiting for a taker or with him).
* The lock is entered itself, never by its condition: an exception of a signal handler inside
  Condition.__enter__, which is Python code, would leave it locked for good.
* An exception of a signal handler may end `feed` anywhere. What the machine decided and nobody did
  shows in its state, and the next one who looks mends it.
* Nobody is told anything under the lock but the notifier, which only queues; our threads never
  run a log handler or a callback of the application's.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from typing import Generic, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.happenings import (
    Action,
    Closed,
    CutShort,
    Dial,
    Fail,
    Happening,
    Hurry,
    Leave,
    Tell,
    Wait,
    Wanted,
)
from understudy.core.machine import Machine, State
from understudy.core.uri import FailoverURI
from understudy.errors import ConnectFailed
from understudy.failover import forking
from understudy.failover.connections import Connections
from understudy.failover.dialer import Dialer
from understudy.failover.notifier import EventCallback, Notifier
from understudy.failover.spares import SparePool
from understudy.failover.waiters import Waiters

__all__ = ["Control"]

C = TypeVar("C")


class Control(Generic[C]):
    """All of it is to be used with `lock` held."""

    def __init__(
        self,
        uri: FailoverURI,
        dialer: Dialer[C],
        on_event: EventCallback | None,
        rng: random.Random,
    ) -> None:
        self.options = uri.options
        self.dialer = dialer
        self.notifier = Notifier(on_event)
        self.machine = Machine(uri.endpoints, uri.options, rng)
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # for our own threads
        self.waiters = Waiters()  # the callers
        self.users: weakref.WeakSet[object] = weakref.WeakSet()
        self.connections: Connections[C] = Connections(dialer)
        self.spares: SparePool[C] = SparePool(uri.options, dialer)
        self.pass_dial: Endpoint | None = None  # what the machine wants dialed now
        self.due: float | None = None  # when its delay is over
        self._since = 0.0  # when it began
        self.failures = 0  # how often the machine gave up
        self.failure: tuple[str, ConnectFailed] | None = None
        forking.register(self)

    @property
    def is_needed(self) -> bool:
        return len(self.waiters) > 0 or len(self.users) > 0

    @property
    def is_closed(self) -> bool:
        return self.machine.state is State.CLOSED

    def mend(self) -> None:
        """After an interrupted `feed`: begin a new pass at once."""
        machine = self.machine
        match machine.state:
            case State.DIALING:
                is_whole = self.pass_dial is not None
            case State.WAITING:
                is_whole = self.due is not None
            case State.CONNECTED:
                is_whole = machine.current is not None
            case _:
                is_whole = True
        if not is_whole:
            self.feed(CutShort())

    def want(self) -> None:
        """Feed Wanted. Waiting callers repeat it: it wakes nobody unless it changes something."""
        self.mend()
        due = self.due
        actions = self.machine.receive(Wanted())
        for action in actions:
            self._obey(action)
        if self.due != due or not all(isinstance(action, Hurry) for action in actions):
            self.notify()

    def feed(self, happening: Happening) -> None:
        for action in self.machine.receive(happening):
            self._obey(action)
        self.notify()

    def notify(self) -> None:
        self.changed.notify_all()
        self.waiters.ring()

    def _obey(self, action: Action) -> None:
        match action:
            case Dial(endpoint):
                self.pass_dial, self.due = endpoint, None
            case Wait(ms):
                self.pass_dial, self._since = None, time.monotonic()
                self.due = self._since + ms / 1000
            case Hurry(ms):
                if self.due is not None:
                    self.due = min(self.due, self._since + ms / 1000)
            case Leave(epoch):
                self.connections.leave(epoch)
            case Tell(event):
                self.notifier.tell(event)
            case Fail(reason, attempts):
                self.pass_dial = self.due = None
                self.failures += 1
                self.failure = (reason, ConnectFailed(reason, attempts))
                self.waiters.dismiss()

    def clear_idle(self) -> list[C]:
        """Give up all that nobody has taken."""
        return [*self.connections.clear_ready(), *self.spares.clear()]

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self.notifier.hold()
        self.lock.acquire()

    def let_go(self) -> None:
        self.lock.release()
        self.notifier.let_go()

    def abandon(self) -> None:
        """In a forked child this is history; the child makes its own."""
        for connection in [*self.connections.clear(), *self.spares.clear()]:
            with contextlib.suppress(Exception):
                self.dialer.abandon(connection)
        with contextlib.suppress(RuntimeError):  # made while the fork began, and not held
            self.lock.release()  # a caller whose signal handler forks may be waiting for it
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.notifier = Notifier()  # the other's lock may be held by a thread that is no more
        with self.lock:
            self.feed(Closed())
