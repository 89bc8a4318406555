"""The outbox: messages that were given to us and that no broker has confirmed yet.

Theory
* Entries stand in send order, in two parts: in flight (written to the current link, waiting for the
  confirm) and unwritten (waiting for the link). Everything in flight is older than everything
  unwritten, because only the head of the unwritten part may be written. When a link is lost, the
  part in flight goes back to the front: original order, before anything never sent (F28, F36).
* An entry leaves by exactly one door: `Outbox.confirmed`, `Outbox.refused`, `Outbox.drop`, or the
  poison rule in `Outbox.channel_closed`. A lost link, a stale tag or a repeated confirm never
  removes one. ActiveMQ resends what was confirmed long ago (activemq.md 9, row 12); we do not.
* Tags are those of one link: they rise (1, 2, 3 ...; gaps do no harm) and begin anew after
  `Outbox.link_lost`. A confirm read from an older link must not be passed on: its tag would name
  another message. A tag that was never given is ignored and counted, also with ``multiple``; so the
  channel should be the outbox's own.
* A dropped entry that is in flight stays behind as a *ghost*: it counts neither as an entry nor in
  ``bytes``, but its confirm is expected, and it may still be the one that closes the channel.

What the shell owes
* It serialises all calls. It calls `Outbox.written` before the bytes go to the socket: a send that
  is cut short is then in doubt, as it should be. Before that call ``attempts > 0`` says that what
  it is about to write is a resend and must be flagged.
* Keys should be unique. Where an application reuses its message ids nothing is lost: `drop` takes
  the item too, and `returned` means the oldest one of that key in flight.

What closes the channel whenever it is sent is searched for and taken out: see `core.poison`.

Cost: offer, next_unwritten, written and confirmed of one message take 0.5 microseconds together
(CPython 3.11, in windows of 100 or more; 1.3 one by one). `drop` and `returned` search from the
oldest entry on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice, takewhile
from typing import Generic, TypeVar

from understudy.core.poison import STRIKES, Suspicion

__all__ = ["Entry", "Outbox"]

T = TypeVar("T")


class Entry(Generic[T]):
    """One message of the outbox. Read it; only the outbox changes it."""

    __slots__ = (
        "attempts",
        "dropped",
        "item",
        "key",
        "returned",
        "sequence",
        "size",
        "strikes",
        "written",
    )

    def __init__(self, item: T, size: int, key: str, sequence: int) -> None:
        self.item = item
        self.size = size  # bytes, as offered
        self.key = key  # the message id
        self.sequence = sequence  # rises in send order
        self.attempts = 0  # how often it was written, on any link
        self.written = False  # to the current link
        self.returned = False  # as unroutable, by the current link
        self.dropped = False
        self.strikes = 0

    @property
    def is_in_doubt(self) -> bool:
        """Whether a broker may have it: it was written at least once, to whatever link."""
        return self.attempts > 0

    def __repr__(self) -> str:
        where = "in flight" if self.written else "unwritten"
        return f"<Entry {self.key} {where} attempts={self.attempts} bytes={self.size}>"


class Outbox(Generic[T]):
    """Unconfirmed messages in send order, at most ``max_bytes`` of them (maxCacheSize)."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._unwritten: deque[Entry[T]] = deque()
        self._flight: dict[int, Entry[T]] = {}  # by tag, which is send order; holds ghosts too
        self._ghosts = 0
        self._sequence = 0
        self._last_tag = 0  # of this link
        self._lowest_tag = 1  # nothing in flight is below it
        self._suspicion = Suspicion()
        self.confirmed_total = 0  # entries, without the unroutable ones
        self.unroutable_total = 0
        self.refused_total = 0
        self.dropped_total = 0
        self.poison_total = 0
        self.resent_total = 0  # writes of entries that had been written before
        self.stale_confirms = 0  # confirms and refusals that named nothing in flight

    def __len__(self) -> int:
        return len(self._unwritten) + len(self._flight) - self._ghosts

    def __repr__(self) -> str:
        probing = " probing" if self.is_probing else ""
        return (
            f"<Outbox {len(self._unwritten)} unwritten, {self.in_flight} in flight, "
            f"{self._bytes} of {self._max_bytes} bytes{probing}>"
        )

    @property
    def bytes(self) -> int:
        """The sizes of all entries together."""
        return self._bytes

    @property
    def in_flight(self) -> int:
        """How many entries are written to the current link and not settled."""
        return len(self._flight) - self._ghosts

    @property
    def is_awaiting(self) -> bool:
        """Whether the current link owes an answer, be it for what was dropped."""
        return bool(self._flight)

    @property
    def is_empty(self) -> bool:
        """Whether every message that was offered has left."""
        return not len(self)

    @property
    def is_probing(self) -> bool:
        """Whether only suspects are being sent, to find the one that closes the link."""
        if not self._suspicion.last:
            return False
        if self.in_flight:
            return True
        first = self._unwritten[0].sequence if self._unwritten else None
        return not self._suspicion.is_over(first, self.confirmed_total)

    def keys(self) -> list[str]:
        """The message ids of all entries, in send order."""
        return [entry.key for entry in self._entries()]

    # --- in: from the application ---------------------------------------------------------------

    def offer(self, item: T, size: int, key: str) -> bool:
        """Take ``item`` of ``size`` bytes in; False when it does not fit now.

        One message larger than the bound fits into an empty outbox, else no send of it could end.
        """
        if self._bytes + size > self._max_bytes and len(self):
            return False
        self._sequence = sequence = self._sequence + 1
        try:
            self._unwritten.append(Entry(item, size, key, sequence))
            self._bytes += size
        except BaseException:  # of a signal handler, between the two
            self._recount()
            raise
        return True

    def drop(self, key: str, item: T | None = None) -> Entry[T] | None:
        """Take out the oldest entry of that key, because its send ended in SendTimeout.

        ``item``, if given, must be the very object that was offered; it tells entries of one key
        apart. None when there is no such entry: it was settled in the meantime, the send is over.
        The entry's `Entry.is_in_doubt` is SendTimeout's ``written``. It is never resent, and a
        confirm that comes for it later is ignored, whether for it alone or with others.
        """
        for entry in self._entries():
            if entry.key == key and (item is None or entry.item is item):
                break
        else:
            return None
        try:
            if entry.written:
                self._ghosts += 1
            else:
                self._unwritten.remove(entry)
            entry.dropped = True
            self._bytes -= entry.size
        except BaseException:  # of a signal handler, in between
            self._recount()
            raise
        self.dropped_total += 1
        return entry

    # --- out: to the link -----------------------------------------------------------------------

    def next_unwritten(self, limit: int) -> list[Entry[T]]:
        """The entries to write next, in order, at most ``limit``; they stay until `written`.

        While suspects are probed that is one entry, or none as long as one is in flight; or no more
        than suspects, where they go together. So ask again whenever something was settled.
        """
        if self.is_probing:
            if self._suspicion.is_together:
                last = self._suspicion.last
                suspects = takewhile(lambda entry: entry.sequence <= last, self._unwritten)
                return list(islice(suspects, max(limit, 0)))
            limit = 0 if self.in_flight else min(limit, 1)
        return list(islice(self._unwritten, max(limit, 0)))

    def written(self, entry: Entry[T], tag: int) -> None:
        """``entry``, the first unwritten one, goes to the link now and has ``tag`` there.

        One that was dropped since `next_unwritten` may be given too: its bytes are on the way.
        ValueError, and no change, for any other entry or for a tag that does not rise.
        """
        if tag <= self._last_tag:
            raise ValueError(f"tag {tag} does not follow {self._last_tag}")
        unwritten = self._unwritten
        is_first = bool(unwritten) and unwritten[0] is entry
        if not is_first and not (entry.dropped and not entry.written):
            raise ValueError(f"{entry!r} is not the first unwritten entry")
        if not self._flight:
            self._lowest_tag = tag
        self._flight[tag] = entry
        self._last_tag = tag
        if entry.attempts:
            self.resent_total += 1
        entry.attempts += 1
        entry.written = True
        if is_first:
            unwritten.popleft()  # last: an exception of a signal handler before it loses nothing
        else:
            self._ghosts += 1

    # --- in: from the broker --------------------------------------------------------------------

    def covered(self, tag: int, multiple: bool = False) -> list[Entry[T]]:
        """What `confirmed` or `refused` would return. They are still here.

        For who tells others: an exception of a signal handler between `confirmed` and the telling
        would leave a message that nobody sends again and nobody hears of.
        """
        if not multiple:
            tags: Iterable[int] = (tag,)
        else:
            last = tag or self._last_tag
            tags = range(self._lowest_tag, last + 1) if last <= self._last_tag else ()
        found = map(self._flight.get, tags)
        return [entry for entry in found if entry is not None and not entry.dropped]

    def confirmed(self, tag: int, multiple: bool = False) -> list[Entry[T]]:
        """The broker has them: remove and return the entry, or all up to ``tag`` if ``multiple``.

        Tag 0 with ``multiple`` means all in flight. Entries with ``returned`` set were unroutable:
        the broker is done with them, but they reached no queue.
        """
        if multiple and (len(self._flight) != 1 or tag not in self._flight):
            settled = self._settle_up_to(tag)
            unroutable = sum(entry.returned for entry in settled)
            self.unroutable_total += unroutable
            self.confirmed_total += len(settled) - unroutable
            return settled
        entry = self._flight.pop(tag, None)
        if entry is None:
            self.stale_confirms += 1
            return []
        if entry.dropped:
            self._ghosts -= 1
            return []
        self._bytes -= entry.size
        entry.written = False
        if entry.returned:
            self.unroutable_total += 1
        else:
            self.confirmed_total += 1
        return [entry]

    def refused(self, tag: int, multiple: bool = False) -> list[Entry[T]]:
        """The broker refuses them (nack): as `confirmed`, but they are in no broker."""
        settled = self._settle_up_to(tag) if multiple else self._settle([tag])
        self.refused_total += len(settled)
        return settled

    def returned(self, key: str) -> bool:
        """The message came back as unroutable; its confirm is still to come.

        Marks the oldest unmarked entry of that key in flight; False when there is none.
        """
        for entry in self._flight.values():
            if entry.key == key and not entry.returned:
                entry.returned = True
                return not entry.dropped
        return False

    # --- in: from the link ----------------------------------------------------------------------

    def link_lost(self) -> int:
        """The link is gone, no message's fault; returns how many entries must be written again.

        Ghosts are forgotten, tags begin anew, a suspicion stays.
        """
        again = [entry for entry in self._flight.values() if not entry.dropped]
        if again and self._unwritten and again[-1] is self._unwritten[0]:
            del again[-1]  # `written` was interrupted
        for entry in again:
            entry.written = False
            entry.returned = False  # the next broker may have a route
        unwritten = deque(chain(again, self._unwritten))
        self._unwritten, self._flight = unwritten, {}  # at once, for signal handlers that raise
        self._last_tag = 0
        self._recount()
        return len(again)

    def channel_closed(self, *, alone: bool = True) -> Entry[T] | None:
        """The broker closed the channel or the connection with an error that a message may cause.

        Includes `link_lost`, and must come before it where both are told. Returns the entry that
        is taken out as poison, if this close convicts one. ``alone=False``: something outside this
        outbox was outstanding there, and may have been the reason.
        """
        accusable = alone and not self._ghosts
        count = self.link_lost()
        if not count:
            return None
        self._suspicion.closed(self._unwritten[count - 1].sequence, alone=alone)
        if count > 1 or not accusable:
            return None
        entry = self._unwritten[0]
        entry.strikes += 1
        if entry.strikes < STRIKES:
            return None
        self._unwritten.popleft()
        self._bytes -= entry.size
        self.poison_total += 1
        self._suspicion.found(self.confirmed_total)
        return entry

    # --------------------------------------------------------------------------------------------

    def _recount(self) -> None:
        """What was counted may be wrong: a call was interrupted."""
        self._ghosts = sum(entry.dropped for entry in self._flight.values())
        self._bytes = sum(entry.size for entry in self._entries())

    def _entries(self) -> Iterator[Entry[T]]:
        everything = chain(self._flight.values(), self._unwritten)
        return (entry for entry in everything if not entry.dropped)

    def _settle_up_to(self, tag: int) -> list[Entry[T]]:
        if tag == 0:
            tag = self._last_tag
        if tag > self._last_tag:  # never given: not to be believed
            self.stale_confirms += 1
            return []
        lowest, self._lowest_tag = self._lowest_tag, max(self._lowest_tag, tag + 1)
        # each tag is looked at once in the life of a link; walking the dict from its front would
        # pass over all removed entries again and again
        return self._settle(range(lowest, tag + 1))

    def _settle(self, tags: range | list[int]) -> list[Entry[T]]:
        settled = []
        take = self._flight.pop
        any_found = False
        for tag in tags:
            entry = take(tag, None)
            if entry is None:
                continue
            any_found = True
            if entry.dropped:
                self._ghosts -= 1
                continue
            self._bytes -= entry.size
            entry.written = False
            settled.append(entry)
        if not any_found:
            self.stale_confirms += 1
        return settled
