"""Dials what the machine, a waiting caller or the pool of spares wants, on threads of its own.

Rules
* One daemon thread dials what callers wait for, so that a caller can stop waiting at its deadline,
  at a signal or at close() while an attempt goes on, and reconnecting goes on when nobody waits any
  more. Another one, only where the URI asks for spares, dials those: a silent endpoint that nobody
  needs now delays nobody.
* Dialing is done without the lock, and its outcome reported under it.
* What is dialed for somebody who has left meanwhile is closed, unless somebody else can use it.
* At interpreter exit no thread can be started any more: then the waiting caller does the work
  himself.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from typing import Generic, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.happenings import Dialed, DialFailed, Prefer, Spares, TimeUp
from understudy.core.redact import redact
from understudy.errors import UnderstudyError
from understudy.failover.control import Control
from understudy.failover.dialer import TellsRefusals
from understudy.failover.worker import Job, Worker

__all__ = ["Dialing"]

C = TypeVar("C")

#: errors of this process itself: another endpoint could not be dialed either
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class Dialing(Generic[C]):
    def __init__(self, control: Control[C]) -> None:
        self._control = control
        self._dialer = control.dialer
        self._machine = control.machine
        self._connections = control.connections
        self._spares = control.spares
        self.logged: dict[Endpoint, str] = {}  # the cause already logged for each endpoint
        self._urgent = self._worker(
            "understudy-supervisor", self._next_job, lambda: control.is_needed
        )
        self._sparing = self._worker(
            "understudy-spares", self._next_spare_job, lambda: len(control.users) > 0
        )

    def _worker(
        self, name: str, next_job: Callable[[float], Job], is_needed: Callable[[], bool]
    ) -> Worker:
        control = self._control
        return Worker(
            name,
            control.changed,
            next_job,
            is_needed=is_needed,
            is_over=lambda: control.is_closed,
        )

    def ensure_threads(self) -> bool:
        """Have them run, with the lock held; False when none can be started any more."""
        if self._spares.are_asked_for:
            self._sparing.ensure()
        return self._urgent.ensure()

    def work(self, patience: float) -> None:
        """Do in this thread what the first of ours would do next; without the lock."""
        self._urgent.work(patience)

    def use_urgent_spare(self) -> bool:
        """Whether what the machine wants dialed now was there as a spare, and is in use."""
        urgent = self._control.pass_dial
        return urgent is not None and self._use_spare(urgent, self._pass_dialed)

    def forget_all_but(self, known: Container[Endpoint]) -> list[C]:
        """Endpoints that are no longer announced leave no trace; the spares to be discarded."""
        for endpoint in [one for one in self.logged if one not in known]:
            del self.logged[endpoint]
        gone = self._spares.keep(known)
        if gone:
            self._control.feed(Spares(self._spares.endpoints))
        return gone

    # --- what to do next ------------------------------------------------------------------------

    def _next_job(self, now: float) -> Job:
        control = self._control
        if not control.is_needed:
            return None
        control.mend()
        if control.due is not None:
            if now < control.due:
                return control.due
            control.due = None
            control.feed(TimeUp())
        endpoint, current, epoch = control.pass_dial, self._machine.current, self._machine.epoch
        if endpoint is not None:
            return lambda: self._dial(endpoint, self._pass_dialed, self._pass_failed)
        if current is not None and len(control.waiters) > self._connections.ready:
            return lambda: self._dial(
                current, self._further_dialed, lambda failed: self._further_failed(epoch, failed)
            )
        return None

    def _next_spare_job(self, now: float) -> Job:
        if not self._control.users:
            return None
        before = self._spares.endpoints
        wanted = self._spares.wanted(self._machine, now)
        if self._spares.endpoints != before:  # some have died
            self._control.feed(Spares(self._spares.endpoints))
        if wanted is not None:
            return lambda: self._dial(wanted, self._spare_dialed, self._spare_failed)
        settled = self._spares.settled(self._machine, now)
        if settled is not None:
            return lambda: self._go_home(settled)
        return self._spares.due(self._machine)

    def _go_home(self, endpoint: Endpoint) -> None:
        with self._control.lock:
            self._control.feed(Prefer(endpoint, "a priority endpoint is back and stable"))

    # --- one attempt ----------------------------------------------------------------------------

    def _dial(
        self,
        endpoint: Endpoint,
        arrived: Callable[[Endpoint, C], None],
        failed: Callable[[DialFailed], None],
    ) -> None:
        """Dial outside the lock, then report under it."""
        lock = self._control.lock
        with lock:
            if self._use_spare(endpoint, arrived):
                return
        timeout = self._control.options.connect_timeout / 1000
        try:
            connection = self._dialer.dial(endpoint, timeout)
        except Exception as exc:
            cause = redact(_words(exc))
            failure = DialFailed(endpoint, cause, self._is_refusal(exc))
            with lock:
                self._log_cause(endpoint, cause)
                failed(failure)
            return
        with lock:
            self.logged.pop(endpoint, None)
            arrived(endpoint, connection)

    def _is_refusal(self, exc: Exception) -> bool:
        if isinstance(self._dialer, TellsRefusals) and self._dialer.is_refusal(exc):
            return True
        return any(isinstance(e, OSError) and e.errno in NO_DESCRIPTOR for e in _causes(exc))

    def _log_cause(self, endpoint: Endpoint, cause: str) -> None:
        """Once for each endpoint and cause, not at every pass."""
        if self.logged.get(endpoint) != cause:
            self.logged[endpoint] = cause
            text = f"cannot connect to {endpoint}: {cause}"
            self._control.notifier.log(logging.WARNING, text)

    def _use_spare(self, endpoint: Endpoint, arrived: Callable[[Endpoint, C], None]) -> bool:
        """Report a spare instead of dialing, if there is one."""
        before = self._spares.endpoints
        spare = self._spares.take(endpoint, time.monotonic())
        if self._spares.endpoints != before:
            self._control.feed(Spares(self._spares.endpoints))
        if spare is not None:
            arrived(endpoint, spare)
        return spare is not None

    # --- its outcome, for whom it was -----------------------------------------------------------

    def _pass_dialed(self, endpoint: Endpoint, connection: C) -> None:
        control = self._control
        if control.pass_dial != endpoint:  # the machine has gone on meanwhile
            self._dialer.discard(connection)
            return
        control.pass_dial = None
        control.feed(Dialed(endpoint))
        self._further_dialed(endpoint, connection)

    def _pass_failed(self, failure: DialFailed) -> None:
        if self._control.pass_dial == failure.endpoint:
            self._control.pass_dial = None
            self._control.feed(failure)

    def _further_dialed(self, endpoint: Endpoint, connection: C) -> None:
        if self._machine.current != endpoint or not self._control.is_needed:
            self._dialer.discard(connection)
            return
        self._connections.arrived(connection, self._machine.epoch)
        self._control.feed(Dialed(endpoint))

    def _further_failed(self, epoch: int, failure: DialFailed) -> None:
        if self._machine.epoch == epoch:
            is_refusal = failure.is_refusal and self._connections.are_served(epoch)
            self._control.feed(replace(failure, is_refusal=is_refusal))

    def _spare_dialed(self, endpoint: Endpoint, connection: C) -> None:
        control, machine = self._control, self._machine
        if control.pass_dial == endpoint:  # it has become urgent meanwhile
            self._pass_dialed(endpoint, connection)
            return
        is_of_use = control.users and endpoint in machine.endpoints and endpoint != machine.current
        if (
            is_of_use
            and not control.is_closed
            and self._spares.add(endpoint, connection, time.monotonic())
        ):
            control.feed(Spares(self._spares.endpoints))
        else:
            self._dialer.discard(connection)

    def _spare_failed(self, failure: DialFailed) -> None:
        self._spares.failed(failure.endpoint, time.monotonic())


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was made of."""
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _words(exc: Exception) -> str:
    """An error of ours is told in its own words, another one with its kind."""
    if isinstance(exc, UnderstudyError):
        return str(exc)
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
