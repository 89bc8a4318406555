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
* A lane holds at most `LANE_SIZE` messages; a member that lags further behind counts as not
  connected.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.events import Connected, Event, Interrupted, Resumed
from understudy.core.uri import FailoverURI
from understudy.errors import ConfigurationError, ConnectFailed, SendTimeout
from understudy.failover import forking
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.notifier import logger

__all__ = ["Fanout", "Member", "alone", "check"]

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)

LANE_SIZE = 1000  # messages that may wait for one member


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


class _Tally:
    """How one send stands; guarded by the fanout's lock."""

    def __init__(self, need: int, copies: int) -> None:
        self.need = need
        self.open = copies
        self.acks = 0
        self.error: Exception | None = None  # the first that is no time-out

    @property
    def is_over(self) -> bool:
        return self.acks >= self.need or self.acks + self.open < self.need


class _Lane(Generic[M]):
    def __init__(self, member: Member[M], owner: Fanout[M]) -> None:
        self.member = member
        self.is_up = False
        self.missed = 0  # messages sent while this member was not connected
        self.jobs: queue.Queue[tuple[M, Deadline, _Tally] | None] = queue.Queue()
        self._owner = owner

    @property
    def is_ready(self) -> bool:
        return self.is_up and self.jobs.qsize() < LANE_SIZE

    def run(self) -> None:
        try:
            self.member.open(self._note)
        except Exception as exc:
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
            except Exception as exc:
                error = exc
            self._owner.settle(self, tally, error)

    def _note(self, event: Event) -> None:
        if isinstance(event, (Connected, Resumed)):
            self._owner.note(self, True)
            self.tell_missed()
        elif isinstance(event, Interrupted):
            self._owner.note(self, False)

    def tell_missed(self) -> None:
        missed = self._owner.take_missed(self)
        if missed:
            logger.warning("fanout: %s missed %d messages", self.member.name, missed)


class Fanout(Generic[M]):
    """Sends to all members; ``need`` of them must confirm."""

    def __init__(self, members: Iterable[Member[M]], need: int) -> None:
        self.is_closed = False
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

        Raises SendTimeout at the deadline, ConnectFailed when closed meanwhile, or the first
        refusal when too many members refuse.
        """
        with self._lock:
            ready = self._wait_for_members(message_id, deadline)
            tally = _Tally(self._need, len(ready))
            for lane in self._lanes:
                if lane in ready:
                    lane.jobs.put((message, deadline, tally))
                else:
                    lane.missed += 1
            while not tally.is_over and deadline.remaining() > 0:
                self._check_open()
                self._changed.wait(deadline.timeout())
            if tally.acks >= tally.need:
                return
            if tally.error is not None:
                raise tally.error
            raise SendTimeout(
                f"message {message_id}: {tally.acks} of {self._need} brokers confirmed it within "
                f"timeout={(deadline.seconds or 0) * 1000:.0f} ms",
                message_id=message_id,
                written=True,
            )

    def _wait_for_members(self, message_id: str, deadline: Deadline) -> list[_Lane[M]]:
        while True:
            self._check_open()
            ready = [lane for lane in self._lanes if lane.is_ready]
            if len(ready) >= self._need:
                return ready
            if deadline.remaining() <= 0:
                away = ", ".join(lane.member.name for lane in self._lanes if not lane.is_ready)
                raise SendTimeout(
                    f"message {message_id} was never sent: minAckCount={self._need}, but "
                    f"{len(ready)} brokers are connected (not: {away}) within "
                    f"timeout={(deadline.seconds or 0) * 1000:.0f} ms",
                    message_id=message_id,
                )
            self._changed.wait(deadline.timeout())

    def _check_open(self) -> None:
        if self.is_closed:
            raise ConnectFailed("closed")

    def close(self) -> None:
        """End every lane; waiting sends get ConnectFailed("closed")."""
        with self._lock:
            self.is_closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.jobs.put(None)
            try:
                lane.member.close()
            except Exception as exc:  # the others have to be closed all the same
                logger.error("fanout: %s could not be closed: %s", lane.member.name, exc)

    # --- called by the lanes --------------------------------------------------------------------

    def note(self, lane: _Lane[M], is_up: bool) -> None:
        """A member came or went."""
        with self._lock:
            lane.is_up = is_up and not self.is_closed
            self._changed.notify_all()

    def take_missed(self, lane: _Lane[M]) -> int:
        """How many messages it has missed since this was asked last."""
        with self._lock:
            missed, lane.missed = lane.missed, 0
        return missed

    def settle(self, lane: _Lane[M], tally: _Tally, error: Exception | None) -> None:
        with self._lock:
            tally.open -= 1
            if error is None:
                tally.acks += 1
            elif not isinstance(error, SendTimeout | DeadlinePassed):
                tally.error = tally.error or error
            if error is not None and self.is_closed:
                lane.missed += 1
            has_caught_up = lane.is_up and lane.jobs.empty()
            self._changed.notify_all()
        if has_caught_up:
            lane.tell_missed()
        if error is not None and not self.is_closed:
            why = str(error) or "its time was up"
            logger.warning("fanout: %s did not take a message: %s", lane.member.name, why)

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
        self.is_closed = True
