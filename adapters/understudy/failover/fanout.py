"""One message to several brokers (fanout:), confirmed when enough of them have confirmed it.

Rules
* Each member has a connection and a thread of its own, its *lane*: one broker that is slow or gone
  delays no other, and copies keep their order on each broker.
* A send waits until ``minAckCount`` members are connected, goes to all that are connected then, and
  returns when so many have confirmed it; the other copies go on. A member that is not connected at
  that moment misses the message: that is ActiveMQ's meaning (activemq.md 3.3), logged as a count
  when the member is back.
* A refusal by one member is an error of the send only when too few others can still confirm it;
  otherwise it is logged.
* One deadline bounds a send with all of its copies, so after a SendTimeout nothing is sent late.
* A member that is given up (its thread has ended, or its reconnecting has) is waited for no longer;
  when too few are left, sends get the reasons at once.
* close() takes no more sends and waits for the copies that are still to go, bounded; what is left
  then is logged as a count. What counts is in `core.fanout`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.events import Connected, Event, GaveUp, Interrupted, Resumed
from understudy.core.fanout import Standing, Tally, can_begin, never_sent
from understudy.core.uri import FailoverURI
from understudy.errors import ConfigurationError, ConnectFailed, SendTimeout
from understudy.failover import forking
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import logger

__all__ = [
    "Closed",
    "Fanout",
    "Member",
    "alone",
    "check",
    "log_left",
    "log_missed",
    "log_not_taken",
]

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)


class Closed(ConnectFailed):
    """closed"""


def check(uri: FailoverURI) -> None:
    """Raise ConfigurationError for what fanout: does not go together with."""
    if uri.options.track_messages:
        raise ConfigurationError(
            "fanout: and trackMessages=true do not go together: each send waits for its confirms"
        )
    if uri.agents or uri.options.update_uris_url:
        raise ConfigurationError("fanout: needs its brokers listed, as static:(…)")


def alone(uri: FailoverURI, endpoint: Endpoint) -> FailoverURI:
    """The URI of one member: the same options, but it never gives up by itself."""
    options = replace(
        uri.options,
        timeout=-1,  # of connecting; each send brings its own
        max_reconnect_attempts=0,
        startup_max_reconnect_attempts=0,
        backup=False,
        priority_backup=False,
    )
    return replace(uri, scheme="failover", endpoints=(endpoint,), options=options)


def counted(messages: int) -> str:
    return "1 message" if messages == 1 else f"{messages} messages"


def log_missed(name: str, messages: int) -> None:
    logger.warning("fanout: %s missed %s", name, counted(messages))


def log_not_taken(name: str, error: BaseException) -> None:
    logger.warning("fanout: %s did not take a message: %s", name, error)


def log_left(name: str, copies: int) -> None:
    logger.warning("fanout: %s did not confirm %s before the end", name, counted(copies))


class Member(Protocol[M_contra]):
    """One broker of the list. ``open``, ``send`` and ``pause`` are called by its lane only."""

    name: str  # its endpoint, redacted

    def open(self, on_event: Callable[[Event], object]) -> None:
        """Connect, however long it takes, and from then on reconnect by itself; tell what happens.

        Raises when closed meanwhile, or when this broker is given up for good.
        """

    def send(self, message: M_contra, deadline: Deadline) -> None:
        """Return when this broker has confirmed it.

        Raises SendTimeout or DeadlinePassed, or what the broker refused it with.
        """

    def close(self) -> None:
        """From any thread: end everything, bounded; a send that waits gets an error."""


class _Lane(Generic[M]):
    def __init__(self, member: Member[M], owner: Fanout[M]) -> None:
        self.member = member
        self.is_up = False
        self.is_over = False  # its thread has ended: whatever it tells, it sends nothing any more
        self.given_up = ""  # why it does not come back
        self.open = 0  # copies that it has not answered
        self.missed = 0  # messages sent while this member was not connected
        self.jobs: queue.Queue[tuple[M, Deadline, Tally] | None] = queue.Queue()
        self._owner = owner

    @property
    def standing(self) -> Standing:
        return Standing(self.member.name, self.is_up, self.open, self.given_up)

    def run(self) -> None:
        try:
            self.member.open(self._note)
        except Exception as exc:
            self._owner.end(self, exc)
            if not self._owner.is_closed:
                logger.error("fanout: %s is given up: %s", self.member.name, exc)
        else:
            self._work()
        self.tell_missed()

    def _work(self) -> None:
        while True:
            job = self.jobs.get()
            if job is None:
                return
            message, deadline, tally = job
            error: Exception | None = None
            try:
                self.member.send(message, deadline)
            except DeadlinePassed:
                error = SendTimeout("its time was up")
            except Exception as exc:
                error = exc
            self._owner.settle(self, tally, error)

    def _note(self, event: Event) -> None:
        if isinstance(event, (Connected, Resumed)):
            self._owner.note(self, True)
            self.tell_missed()
        elif isinstance(event, (Interrupted, GaveUp)):
            given_up = event.reason or "given up" if isinstance(event, GaveUp) else ""
            self._owner.note(self, False, given_up)

    def tell_missed(self) -> None:
        missed = self._owner.take_missed(self)
        if missed:
            log_missed(self.member.name, missed)


class Fanout(Generic[M]):
    """Sends to all members; ``need`` of them must confirm."""

    def __init__(self, members: Iterable[Member[M]], need: int) -> None:
        self.is_closed = False  # nothing more is taken
        self._has_ended = False  # nor sent
        self._need = need
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._lanes = [_Lane(member, self) for member in members]
        for lane in self._lanes:
            forking.start_thread("understudy-fanout", lane.run)
        forking.register(self)

    def __repr__(self) -> str:
        up = sum(lane.is_up for lane in self._lanes)
        return f"<Fanout {up} of {len(self._lanes)} connected, {self._need} needed>"

    def send(self, message: M, message_id: str, deadline: Deadline) -> None:
        """Return when enough brokers have confirmed it.

        Raises SendTimeout at the deadline, Closed when closed meanwhile, ConnectFailed when too
        many members are given up, or the first refusal when too many members refuse.
        """
        with self._lock:
            self._wait_for_members(message_id, deadline)
            ready = [lane for lane in self._lanes if lane.standing.is_ready]
            tally = Tally(self._need, len(ready))
            for lane in self._lanes:
                if lane in ready:
                    lane.open += 1
                    lane.jobs.put((message, deadline, tally))
                else:
                    lane.missed += 1
            while not tally.is_over and deadline.remaining() > 0:
                if self._has_ended:
                    raise Closed
                self._changed.wait(deadline.timeout())
            tally.check(message_id, deadline.seconds or 0)

    def _wait_for_members(self, message_id: str, deadline: Deadline) -> None:
        while True:
            if self.is_closed:
                raise Closed
            standings = [lane.standing for lane in self._lanes]
            if can_begin(standings, self._need):
                return
            if deadline.remaining() <= 0:
                raise never_sent(standings, self._need, message_id, deadline.seconds or 0)
            self._changed.wait(deadline.timeout())

    def close(self, deadline: Deadline) -> None:
        """Let the copies that were taken be confirmed, until the deadline; then end every lane.

        Sends that wait for members get Closed at once, the others at the deadline.
        """
        with self._lock:
            self.is_closed = True
            self._changed.notify_all()
        try:
            self._drain(deadline)
        finally:
            self._end()

    def _drain(self, deadline: Deadline) -> None:
        with self._lock:
            while any(lane.open for lane in self._lanes) and deadline.remaining() > 0:
                self._changed.wait(deadline.timeout())

    def _end(self) -> None:
        with self._lock:
            self._has_ended = True
            self._changed.notify_all()
            left = {lane: lane.open for lane in self._lanes if lane.open}
        for lane, copies in left.items():
            log_left(lane.member.name, copies)
        for lane in self._lanes:
            lane.jobs.put(None)
            try:
                lane.member.close()
            except Exception as exc:  # the others have to be closed all the same
                logger.error("fanout: %s could not be closed: %s", lane.member.name, exc)

    # --- called by the lanes --------------------------------------------------------------------

    def note(self, lane: _Lane[M], is_up: bool, given_up: str = "") -> None:
        """A member came or went; what it says after its end does not count."""
        with self._lock:
            if not lane.is_over:
                lane.is_up, lane.given_up = is_up, given_up
                self._changed.notify_all()

    def end(self, lane: _Lane[M], why: Exception) -> None:
        """A member never came, and nobody works on its copies."""
        with self._lock:
            lane.is_over, lane.is_up, lane.given_up = True, False, str(why) or repr(why)
            self._changed.notify_all()
            jobs = [lane.jobs.get() for _ in range(lane.open)]
        for job in jobs:
            assert job is not None
            self.settle(lane, job[2], why)

    def take_missed(self, lane: _Lane[M]) -> int:
        """How many messages it has missed since this was asked last."""
        with self._lock:
            missed, lane.missed = lane.missed, 0
        return missed

    def settle(self, lane: _Lane[M], tally: Tally, error: Exception | None) -> None:
        with self._lock:
            lane.open -= 1
            tally.settle(error)
            has_caught_up = lane.is_up and not lane.open
            self._changed.notify_all()
        if has_caught_up:
            lane.tell_missed()
        if error is not None and not self._has_ended:
            log_not_taken(lane.member.name, error)

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._changed.acquire()

    def let_go(self) -> None:
        self._changed.release()

    def abandon(self) -> None:
        """In a forked child there are no lanes: it makes its own connection."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._lanes = []
        self.is_closed = self._has_ended = True
