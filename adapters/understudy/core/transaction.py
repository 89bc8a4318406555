"""The transaction log: what an open transaction did, and what a lost link makes of it.

Theory
* A broker forgets an open transaction with its connection. What was only *sent* in it can be sent
  again in a new one; what was *acknowledged* in it cannot, because the deliveries belong to the
  lost link and come again, to whomever. So sends alone are replayed, and a transaction that holds
  acknowledgements is doomed (activemq.md 1.6, 1.7; F26, F31).
* A commit that was written and not answered is in doubt: the broker may have done it. It is never
  repeated by us, as that could do everything twice; the application decides (F27).
* An acknowledgement that is dropped because its delivery belongs to an earlier link is missing from
  the transaction: committing the rest would let the message be processed twice. Doomed as well.
* What another thread sends or acknowledges while a commit is on its way comes after it, so it
  belongs to the next transaction.
* When the broker itself closed the connection over an error, a message of this may have been the
  reason: to replay it would be to lose one connection after the other. Doomed as well.
* Doomed means: nothing more needs to be written, commit raises `TransactionRolledBack` and rolls
  back what is on the link, rollback works as ever. Either ends it.

States, and what moves between them (any other call leaves the state as it is)

====================  ==============  =======================================================
state                 on              becomes
====================  ==============  =======================================================
OPEN                  committing      COMMITTING
OPEN                  link_lost       OPEN if all it holds can be replayed, else DOOMED
OPEN                  stale_ack       DOOMED
COMMITTING            link_lost       OPEN if it holds nothing, else DOOMED, in doubt
any                   ended           OPEN, empty
====================  ==============  =======================================================

Memory: the log holds every send of a transaction until it ends, as the broker does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["Doom", "State", "TransactionLog"]

T = TypeVar("T")

STALE = "something of it belonged to an earlier connection"


class State(Enum):
    OPEN = "open"
    COMMITTING = "committing"
    DOOMED = "doomed"


@dataclass(frozen=True)
class Doom:
    """Why a transaction cannot be committed any more."""

    reason: str
    is_in_doubt: bool  # the broker may have committed it


@dataclass
class _Work(Generic[T]):
    """What one transaction holds."""

    sends: list[tuple[str, T]] = field(default_factory=list)
    acks: int = 0
    stale: bool = False  # an acknowledgement is missing from it

    @property
    def is_empty(self) -> bool:
        return not self.sends and not self.acks and not self.stale


class TransactionLog(Generic[T]):
    """One transaction after the other on one channel, or one of a STOMP connection.

    With ``replays=False`` (trackTransactionProducers=false) sends are not replayed: a transaction
    that holds any is doomed by a lost link. The shell serialises all calls.
    """

    def __init__(self, *, replays: bool = True) -> None:
        self.state = State.OPEN
        self.doom: Doom | None = None
        self._replays = replays
        self._now: _Work[T] = _Work()
        self._next: _Work[T] = _Work()  # came while a commit was on its way

    def __repr__(self) -> str:
        work = self._now
        return f"<TransactionLog {self.state.value} sends={len(work.sends)} acks={work.acks}>"

    @property
    def is_doomed(self) -> bool:
        return self.state is State.DOOMED

    @property
    def is_empty(self) -> bool:
        return not self._now.sends and not self._now.acks

    @property
    def keys(self) -> tuple[str, ...]:
        """The ids of the messages sent in this transaction, in order."""
        return tuple(key for key, _ in self._now.sends)

    @property
    def replay(self) -> tuple[T, ...]:
        """What to send again, in order, in a new transaction on a new link."""
        return () if self.is_doomed else tuple(item for _, item in self._now.sends)

    @property
    def _open(self) -> _Work[T]:
        """Where what happens now belongs to."""
        return self._next if self.state is State.COMMITTING else self._now

    def sent(self, item: T, key: str) -> None:
        """A message is sent in this transaction; call it before its bytes are written."""
        self._open.sends.append((key, item))

    def taken_back(self, item: T) -> None:
        """The newest send never happened: the broker refused it, or its caller gave up."""
        for sends in (self._next.sends, self._now.sends):
            for position in range(len(sends) - 1, -1, -1):
                if sends[position][1] is item:
                    del sends[position]
                    return

    def acked(self) -> None:
        """An acknowledgement, positive or negative, is written in this transaction."""
        self._open.acks += 1

    def stale_ack(self) -> None:
        """An acknowledgement was dropped: its delivery belongs to an earlier link."""
        self._open.stale = True
        if self.state is State.OPEN:
            self._doom(STALE)

    def committing(self) -> None:
        """The commit is about to be written."""
        if self.state is State.OPEN:
            self.state = State.COMMITTING

    def link_lost(self, *, accused: bool = False) -> None:
        """``accused``: the broker closed it over an error, and this may hold what it meant."""
        if self.state is State.COMMITTING:
            if not self.is_empty:
                self._next.stale = self._next.stale or not self._next.is_empty
                self._doom("the connection was lost before its commit was answered", in_doubt=True)
                return
            self.ended()  # of nothing: it may be written again, on whatever link
        if self.state is State.OPEN and self._now.acks:
            self._doom("the connection was lost with acknowledgements in it")
        elif self.state is State.OPEN and self._now.sends and not self._replays:
            self._doom("the connection was lost, and trackTransactionProducers=false")
        elif self.state is State.OPEN and self._now.sends and accused:
            self._doom("the broker closed the connection over an error, perhaps of this")

    def ended(self) -> None:
        """It was committed or rolled back; on AMQP channels the next one has begun."""
        self.state = State.OPEN
        self.doom = None
        self._now, self._next = self._next, _Work()
        if self._now.stale:
            self._doom(STALE)

    def _doom(self, reason: str, *, in_doubt: bool = False) -> None:
        self.state = State.DOOMED
        self.doom = Doom(reason, in_doubt)
