"""What the target has and the source may deliver again. No I/O.

    taken ──confirmed──> held ──acknowledged──> gone       (with an id: kept among `RING`)
                          │ source lost
                          └──> awaited ──delivered again──> held, and not sent

Rules
* A message is remembered when the target confirmed it, and only then: what is not remembered is
  sent. So whatever is lost of a memory can double a message, and lose none.
* One with an id is remembered for long, among the last `RING`: an acknowledgement may be lost on
  its way to the source.
* One without is known by what it holds. Equal ones are counted: as many are kept back as were
  confirmed. They are forgotten before the source is told that they are settled, as it may hold
  equal ones that were never sent; what is awaited is given up after `FRESH` messages that were
  not delivered before.
* Messages have serials, see `Ledger.past`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from understudyd.bridge.dedup.identity import Identify, Known

__all__ = ["FRESH", "RING", "Change", "Memory", "Row"]

RING: Final = 20_000  # as many as Artemis remembers of an address (id-cache-size)
SLACK: Final = RING // 10  # so many more before the oldest are given up, in one go
FRESH: Final = 10_000  # a window that a killed bridge left may come behind what the next one gets


class Row(NamedTuple):
    """One message that is remembered."""

    serial: int
    key: bytes
    has_id: bool


class Change(NamedTuple):
    """What changed, to be written down."""

    added: Sequence[Row] = ()
    gone: Sequence[int] = ()
    """Serials of messages without an id."""
    ids_below: int = 0
    """Messages with an id and a smaller serial are gone."""


class Memory:
    """Of one link."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """``rows`` are what an earlier one has left, by serial."""
        self._ids: dict[bytes, int] = {}
        self._awaited: dict[bytes, list[int]] = {}
        self._held: dict[int, bytes] = {}  # without an id, confirmed and not acknowledged
        self._taken: dict[int, Known] = {}  # not confirmed yet
        self._earlier = 0  # serials of other processes, and that are not of this opening
        for serial, key, has_id in rows:
            if has_id:
                self._keep_id(key, serial)
            else:
                self._awaited.setdefault(key, []).append(serial)
            self._earlier = max(self._earlier, serial)
        self._base = self._earlier
        self._fresh = 0

    def begin(self, past: int) -> None:
        """The source is opened: tags begin anew, ``past`` is that of the ledger. What the opening
        before has taken may be confirmed late."""
        if self._earlier + past == self._base:
            return  # nothing came since
        self._taken = {serial: one for serial, one in self._taken.items() if serial > self._base}
        self._base, self._fresh = self._earlier + past, 0
        for serial, key in self._held.items():
            self._awaited.setdefault(key, []).append(serial)
        self._held.clear()

    def sift(self, deliveries: Sequence[Any], identify: Identify) -> tuple[list[Any], Change]:
        """Those that are to be sent; the others the target has."""
        wanted, added, gone = [], [], []
        for delivery in deliveries:
            known = identify(delivery)
            serial = self._base + delivery[0]
            if not known.may_repeat:
                self._fresh += 1
            elif known.has_id and known.key in self._ids:
                continue
            elif not known.has_id and (before := self._awaited.get(known.key)):
                gone.append(before.pop())
                self._held[serial] = known.key
                added.append(Row(serial, known.key, False))
                continue
            self._taken[serial] = known
            wanted.append(delivery)
        if self._fresh > FRESH and self._awaited:
            gone += [each for serials in self._awaited.values() for each in serials]
            self._awaited.clear()
        return wanted, Change(added, gone)

    def confirmed(self, tags: Sequence[int], late: Sequence[int], past: int) -> Change:
        """The target has these, by tag, and of earlier openings by the serial of the ledger, whose
        ``past`` may be of an opening that has not begun."""
        added = []
        for serial in [self._base + tag for tag in tags]:
            if (known := self._taken.pop(serial, None)) is None:
                continue
            added.append(Row(serial, known.key, known.has_id))
            if known.has_id:
                self._keep_id(known.key, serial)
            else:
                self._held[serial] = known.key
        if late:
            added += self._confirmed_late(late, self._earlier + past)
        return Change(added, (), self._forget_ids())

    def _confirmed_late(self, serials: Iterable[int], base: int) -> list[Row]:
        """What was taken again meanwhile is not awaited any more."""
        again = {known.key for serial, known in self._taken.items() if serial > base}
        added = []
        for serial in [self._earlier + one for one in serials]:
            known = self._taken.pop(serial, None)
            if known is None or known.key in again:
                continue
            added.append(Row(serial, known.key, known.has_id))
            if known.has_id:
                self._keep_id(known.key, serial)
            else:
                self._awaited.setdefault(known.key, []).append(serial)
        return added

    def _keep_id(self, key: bytes, serial: int) -> None:
        self._ids.pop(key, None)  # the newest comes last
        self._ids[key] = serial

    def forget(self, tags: Sequence[int]) -> None:
        """These go to a parking queue, and may be sent from there once more."""
        for tag in tags:
            self._taken.pop(self._base + tag, None)

    def acknowledge(self, tag: int) -> Change:
        """The source is about to be told that all up to this tag is settled."""
        upto = self._base + tag
        gone = [serial for serial in self._held if serial <= upto]
        for serial in gone:
            del self._held[serial]
        for serial in [each for each in self._taken if self._base < each <= upto]:
            del self._taken[serial]
        return Change((), gone)

    def _forget_ids(self) -> int:
        if len(self._ids) < RING + SLACK:
            return 0
        kept = dict(islice(self._ids.items(), len(self._ids) - RING, None))
        self._ids = kept
        return min(kept.values())
