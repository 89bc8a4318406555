"""What outlives a broker: one for each connection object of the application's.

Rules
* The lock, and who serves the wire: see `serving`.
* The first one who needs the connection after a loss brings it back: a new wire from the
  supervisor, then everything restored, step by step. Others wait for that. One whose deadline
  passes leaves the rest of the steps to the next.
* An endpoint that refuses to restore what the application had counts as failed. When each has, or
  one for the second time, whoever waits gets the broker's error.
* An exception from elsewhere (a signal handler) leaves a wire that may be cut within a frame: it is
  severed, through no fault of its endpoint.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from pika import exceptions

from understudy import discovery, errors
from understudy.core.suspects import Suspects
from understudy.core.uri import FailoverURI
from understudy.failover import forking
from understudy.failover.deadline import NEVER, Deadline, DeadlinePassed
from understudy.failover.monitor import monitor
from understudy.failover.notifier import EventCallback, logger
from understudy.failover.polling import Wakeup
from understudy.failover.supervisor import Supervisor
from understudy.pika import alarms, restoring
from understudy.pika.dialing import SCHEMES, PikaDialer
from understudy.pika.errors import (
    CLOSED,
    IS_CLOSED,
    ConnectFailed,
    ConnectionLost,
    ReentrancyError,
)
from understudy.pika.link import INTERRUPTED
from understudy.pika.link_channel import LinkLost
from understudy.pika.restoring import EndpointRefusals, Restored, RestoreFailed, Step
from understudy.pika.serving import Serving
from understudy.pika.topology import Topology
from understudy.pika.wire import GOODBYE, Wire

if TYPE_CHECKING:
    from understudy.pika.channel import BlockingChannel

__all__ = ["Session"]

BUFFERED = 16 * 2**20  # bytes of deliveries nobody has taken, above which no more are read unasked
WITHIN = (
    "there is no connection now, and this signal handler has interrupted the call that brings it "
    "back: only leave a note in the handler, and send after that call"
)
SLICE = 0.1  # s between two looks around while another thread brings the connection back


def _nothing() -> None:
    """The default of `Session.usable`."""


class Session(Serving):
    def __init__(
        self, uri: FailoverURI, dialer: PikaDialer, on_event: EventCallback | None
    ) -> None:
        super().__init__()
        self.options = uri.options
        self.topology = Topology()
        self.channels: dict[int, BlockingChannel] = {}
        self.is_closed = False
        self.stale_acks = 0
        self.buffered = 0  # bytes of deliveries that the application has not taken
        self.on_blocked: Callable[[Any], None] = lambda method_frame: None
        self.on_lost: list[Callable[[LinkLost], None]] = []
        self.own_channels: Callable[[], list[Restored]] = list  # to restore beside ``channels``
        self.suspects = Suspects()
        self.over: set[Hashable] = (
            set()
        )  # threads whose turn is over, whether or not `suspects` know
        self._recoverer = 0  # the thread that brings the connection back
        self._steps: Iterator[Step] | None = None  # what is still to be restored
        self._step: Step = ((lambda: True), math.inf)
        self._refusals = EndpointRefusals()
        self._lost_at = 0.0
        self._dialer = dialer
        dialer.on_dead = _Undertaker(self)
        self.supervisor: Supervisor[Wire] = Supervisor(uri, dialer, on_event=on_event)
        self.discovery = discovery.attach(uri, self.supervisor, schemes=SCHEMES)
        self.wakeup = Wakeup()  # sockets: after all that may raise
        self.supervisor.attach(self)
        forking.register(self)

    def __repr__(self) -> str:
        return f"<Session {self.supervisor!r}>"

    def deadline(self) -> Deadline:
        """Of a call that begins now, as ``timeout`` has it."""
        timeout = self.options.timeout
        return NEVER if timeout < 0 else Deadline(timeout / 1000)

    # --- the wire -------------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether there is a wire with everything restored."""
        return self.wire is not None and self.wire.lost is None and self._steps is None

    def check_open(self, text: str = IS_CLOSED) -> None:
        if self.is_closed:
            raise ConnectionLost(text)

    def usable(self, deadline: Deadline, on_wait: Callable[[], None] = _nothing) -> Wire:
        """With the lock held: the wire, everything restored.

        ``on_wait`` is called about every 100 ms of an outage, and of restoring; DeadlinePassed, if
        it raises that, ends the wait.
        Raises DeadlinePassed, ConnectFailed when reconnecting was given up, ConnectionLost when
        closed or with reconnect=false, the broker's channel error when no endpoint restores what
        there was, and ReentrancyError in a signal handler that has interrupted all that.
        """
        wire = self.wire
        if wire is not None and wire.lost is None and self._steps is None:
            return wire
        while not self.is_live:
            self.check_open(CLOSED)
            if self._recoverer == threading.get_ident():
                raise ReentrancyError(WITHIN)
            if self._recoverer:
                deadline.check()
                self._wait_for_change(min(deadline.remaining(), SLICE))
                on_wait()
                continue
            self._recoverer = threading.get_ident()
            try:
                self._recover(deadline, on_wait)
            finally:
                self._recoverer = 0
                self._waiters.ring()
        assert self.wire is not None
        return self.wire

    def begin(self, deadline: Deadline) -> Wire:
        """With the lock held: `usable`, when it is this thread's turn to write on it.

        See `core.suspects`; the caller owes an `end`. The party is the thread, so that a signal
        handler never waits for the call that it has interrupted.
        """
        party = threading.get_ident()
        while True:
            wire = self.usable(deadline)
            if self.may_go(party):
                self.over.discard(party)
                self.suspects.began(party)
                return wire
            with contextlib.suppress(LinkLost):  # another's doing
                if not self.wait(wire, lambda: self.may_go(party), deadline.moment):
                    raise DeadlinePassed

    def may_go(self, party: Hashable) -> bool:
        """With the lock held: whether it is this party's turn to write."""
        if self.over:
            for one in tuple(self.over):
                self.suspects.ended(one)
                self.over.discard(one)
        return self.suspects.may_go(party)

    def end(self, party: Hashable = None) -> None:
        """With the lock held: nothing of this thread's, or ``party``'s, is outstanding any more.

        A thread is in `over` before: a signal handler may raise on the way to this.
        """
        was_suspicious = bool(self.suspects)
        party = party or threading.get_ident()
        self.suspects.ended(party)
        self.over.discard(party)
        if was_suspicious:
            self.notify()

    def _recover(self, deadline: Deadline, on_wait: Callable[[], None]) -> None:
        """One attempt; it may end without success when the new wire breaks as well."""

        def look_around() -> None:
            self.check_open(CLOSED)
            on_wait()

        if self.wire is not None and self.wire.lost is not None:
            self._leave(self.wire)
        if self.wire is None:
            try:
                self._bring_wire(deadline, look_around)
            except errors.ConnectFailed as exc:
                self.check_open(CLOSED)
                if not self.options.reconnect and self._lost_at:
                    raise ConnectionLost(str(exc)) from None
                raise ConnectFailed(str(exc).partition("\n")[0], exc.attempts) from None
        try:
            self._restore(deadline, look_around)
        except LinkLost as lost:
            assert self.wire is not None
            if lost.is_verdict and lost.cause and restoring.is_to_blame(self.wire):
                self._endpoint_failed(RestoreFailed(lost.cause))
        except DeadlinePassed:
            raise  # the next caller goes on from here
        except RestoreFailed as exc:
            self._endpoint_failed(exc)
        except BaseException:
            self._drop()
            raise

    def _bring_wire(self, deadline: Deadline, on_wait: Callable[[], None]) -> None:
        wire = None
        try:
            wire = self._without_lock(partial(self.supervisor.acquire, deadline, on_wait))
            self.check_open(CLOSED)
            self._adopt(wire)
        except BaseException:
            if wire is not None and wire is not self.wire:
                self.supervisor.released(wire)
                wire.discard()
            raise

    def _adopt(self, wire: Wire) -> None:
        with wire.guard:
            wire.guard = self.lock
        wire.may_read = self._has_room
        wire.on_served = self.notify
        wire.on_blocked = self._on_blocked
        self._steps = self._all_steps(wire)
        self._step = (lambda: True), math.inf
        self.wire = wire
        if wire.blocked is not None:  # since before it was ours
            self._on_blocked(wire.blocked)

    def _all_steps(self, wire: Wire) -> Iterator[Step]:
        until = self._lost_at + restoring.patience(wire.heartbeat)
        methods = self.topology.methods()
        if methods:
            yield from restoring.topology(wire, methods, self.channels, until)
        opened = [channel for channel in self.channels.values() if channel.is_kept]
        yield from restoring.channels(wire, [*opened, *self.own_channels()], until)

    def _restore(self, deadline: Deadline, on_wait: Callable[[], None]) -> None:
        wire = self.wire
        assert wire is not None
        while self._steps is not None:
            is_over, until = self._step
            limit = min(until, deadline.moment)
            while not self.wait(wire, is_over, min(limit, time.monotonic() + SLICE)):
                deadline.check()
                on_wait()
                if time.monotonic() >= until:
                    break
            step = next(self._steps, None)
            if step is None:
                self._steps = None
                self._refusals.clear()
            else:
                self._step = step

    def run(self, steps: Iterator[Step], wire: Wire, deadline: Deadline) -> None:
        """With the lock held: go through steps of one caller's own; LinkLost, DeadlinePassed."""
        for is_over, until in steps:
            if not self.wait(wire, is_over, min(until, deadline.moment)):
                deadline.check()

    def leave_if_lost(self) -> None:
        """Take note of a loss without waiting for another broker."""
        if self.wire is not None and self.wire.lost is not None:
            self._leave(self.wire)

    def leave_because(self, reason: str) -> None:
        """The wire is of no use any more; the next caller gets another one."""
        if self.wire is not None:
            self.wire.sever(reason)
            self._leave(self.wire)

    def _leave(self, wire: Wire) -> None:
        """A wire broke: everything that was on it has to be restored.

        It is done when ``self.wire`` is None; one that was interrupted is done again.
        """
        self._lost_at = time.monotonic()
        assert wire.lost is not None
        monitor.forget(wire)
        self.supervisor.lost(wire, str(wire.lost))
        wire.close()
        self._forget_link(wire)
        self.wire = self._steps = None

    def _drop(self) -> None:
        """It is in an unknown state, but not through its endpoint's fault."""
        wire = self.wire
        if wire is not None:
            self.supervisor.released(wire)
            wire.sever(INTERRUPTED)
            self._leave(wire)

    def _forget_link(self, wire: Wire) -> None:
        lost = wire.lost
        assert lost is not None
        self.suspects.lost(accused=lost.is_verdict)
        for told in self.on_lost:
            told(lost)
        for channel in list(self.channels.values()):
            channel.link_lost(lost)
        if alarms.is_over_with_its_wire(wire, self.supervisor):
            self.on_blocked(alarms.OVER)

    def _endpoint_failed(self, failure: RestoreFailed) -> None:
        wire = self.wire
        assert wire is not None
        wire.sever(str(failure))
        self._leave(wire)
        logger.warning("%s: %s", wire.endpoint, failure)
        if self._refusals.is_hopeless(wire.endpoint, self.supervisor.endpoints):
            raise failure.cause

    def _has_room(self) -> bool:
        return self.buffered < BUFFERED

    def _on_blocked(self, method_frame: Any) -> None:
        if self.wire is not None:
            alarms.note(method_frame, self.wire, self.supervisor)
            self.on_blocked(method_frame)

    # --- the end --------------------------------------------------------------------------------

    def close(self, code: int, text: str) -> None:
        """Say goodbye to the broker, for at most `GOODBYE`; every waiting call ends."""
        with self.lock:
            if self.is_closed:
                raise exceptions.ConnectionWrongStateError("the connection is closed already")
            self.is_closed = True
            wire = self.wire
            if wire is not None:
                monitor.forget(wire)
                self.supervisor.released(wire)
                try:
                    self._say_goodbye(wire, code, text)
                finally:
                    self.wire = self._steps = None
                    wire.sever("closed")
            self.notify()
            self._close_wakeup()
        self.supervisor.detach(self)
        self.supervisor.close()

    def _say_goodbye(self, wire: Wire, code: int, text: str) -> None:
        if wire.lost is None:
            wire.say_goodbye(code, text)
            with contextlib.suppress(LinkLost):
                self.wait(wire, lambda: wire.is_closed, time.monotonic() + GOODBYE)

    def hold(self) -> None:
        self.lock.acquire()

    def let_go(self) -> None:
        self.lock.release()

    def abandon(self) -> None:
        """In a forked child the connection is the parent's."""
        self._abandon_waits()
        if self.wire is not None:
            self.wire.abandon()
        self.is_closed = True
        self.wire = self._steps = None
        self._recoverer = 0


class _Undertaker:
    """What the monitor calls; it keeps no session alive."""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)

    def __call__(self, wire: Wire, reason: str) -> None:
        wire.sever(reason)
        session = self._session()
        if session is not None:
            session.supervisor.lost(wire, reason)
