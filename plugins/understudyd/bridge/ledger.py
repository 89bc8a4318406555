"""The window of a link: what was taken from the source and is not settled there yet. No I/O.

    take ──> waiting ──send──> under way ──confirm──> settled ──acknowledge──> gone
                ^                  │
                └── refuse, lose ──┘       (what is set aside is settled from elsewhere)

Rules
* An entry is settled only by a confirm of its own publish, and acknowledged only when all before it
  are settled: one acknowledgement of a tag stands for every tag below it.
* Nothing is forgotten but by ``forget()``, when the source is gone and its tags are void. What is
  under way then is for nobody: its confirms and returns settle nothing. Which messages the confirms
  were for is told for whoever remembers them (`late`), as long as none of these came back.
* What waits is sent in the order of the source. After the target was lost everything that is not
  settled waits again.
* A returned message is found by what it holds, not by a number: equal ones are interchangeable.
* Confirms of what is not under way are ignored; brokers repeat themselves.
* Work per entry is a few dictionary steps: `_low_*` only move forward, so nothing is looked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from typing import TypeAlias

from understudyd.bridge.wire.bodies import join_body
from understudyd.bridge.wire.reader import Confirm

__all__ = ["Ledger", "Parcel"]

Parcel: TypeAlias = "tuple[bytes, bytes, bytes, int]"
"""What goes to the target: method frame, header frame, body frames; and the size of the body."""

_NOBODY = 0  # instead of a tag; below it are the serials of what was forgotten, negative
_NOTHING: Parcel = (b"", b"", b"", 0)


class Ledger:
    """Entries by the tag that the source gave them; tags grow."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of the bodies that are not settled."""
        self.past = 0
        """The tags of earlier openings of the source, how many: with it a tag is a serial, which
        none has had before."""
        self.settled: list[int] = []
        """The tags that the last ``confirm()`` settled."""
        self.returned: list[int] = []
        """The tags that had come back when it confirmed them."""
        self.late: list[int] = []
        """The serials of what was forgotten and that it confirmed."""
        self.fresh = 0
        """How many of those that the last ``send()`` sent it had never sent before."""
        self._sent = 0  # the highest tag that was ever sent
        self._entries: dict[int, Parcel] = {}
        self._waiting: dict[int, None] = {}  # tags, in the order they are to be sent
        self._under_way: dict[int, int] = {}  # publish number -> tag
        self._returned: dict[int, str] = {}  # tags of those that came back, and why
        self._aside: list[int] = []  # tags of those that are not for the target any more, in order
        self._next = 1  # publish number
        self._low_number = 1  # below it nothing is under way
        self._low_tag = 1  # below it everything is settled
        self._top_tag = 0
        self._acknowledged = 0
        self._batches: list[tuple[int, float]] = []  # last tag of a batch, and when it was taken

    def __len__(self) -> int:
        """How many are not settled."""
        return len(self._entries)

    def __repr__(self) -> str:
        waiting = len(self._waiting)
        return f"<Ledger {len(self)} in flight ({self.size} bytes), {waiting} of them waiting>"

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def waiting_again(self) -> int:
        """How many of those that wait were sent before."""
        return sum(1 for _ in takewhile(self._sent.__ge__, self._waiting))

    @property
    def is_under_way(self) -> bool:
        """Whether a confirm is owed to us."""
        return bool(self._under_way)

    @property
    def owed(self) -> int:
        """How many confirms are, also of what was forgotten."""
        return len(self._under_way)

    @property
    def exposed(self) -> int:
        """How many the target may have that the source does not know of: it would deliver them
        again."""
        return self._top_tag - self._acknowledged - len(self._waiting) - len(self._aside)

    @property
    def is_owed_to_nobody(self) -> bool:
        """Whether the target still has to confirm what was forgotten."""
        return any(tag <= _NOBODY for tag in self._under_way.values())

    @property
    def acknowledgeable(self) -> int:
        """How many tags ``acknowledge()`` would acknowledge."""
        return self._watermark() - self._acknowledged

    def take(self, tags: Sequence[int], parcels: Iterable[Parcel], now: float) -> None:
        """Take in a batch, in the order of the source; it waits to be sent.

        ``tags`` may have gaps: what is left out counts as settled.
        """
        entries = dict(zip(tags, parcels, strict=True))
        if not entries:
            return
        self._entries.update(entries)
        self._waiting.update(dict.fromkeys(tags))
        self.size += sum([parcel[3] for parcel in entries.values()])
        self._top_tag = max(self._top_tag, tags[-1])
        self._batches.append((tags[-1], now))

    def skip(self, tag: int) -> None:
        """What was delivered up to ``tag`` and not taken is settled: nobody wants it."""
        self._top_tag = max(self._top_tag, tag)

    def send(self, limit: int | None = None) -> list[bytes]:
        """What to write, in order: all that waits, or the first ``limit``; under way from now."""
        tags = list(islice(self._waiting, limit))
        if len(tags) == len(self._waiting):
            self._waiting.clear()
        else:
            for tag in tags:
                del self._waiting[tag]
        self._under_way.update(zip(range(self._next, self._next + len(tags)), tags, strict=True))
        self._next += len(tags)
        self.fresh = len(tags) - bisect_right(tags, self._sent)
        self._sent = max([self._sent, *tags[-1:]])
        entries = self._entries
        return [piece for tag in tags for piece in entries[tag][:3]]

    def confirm(self, confirms: Iterable[Confirm]) -> tuple[int, list[int], list[int]]:
        """Settle what the target confirms.

        Returns how many were settled, the tags that it refused and that wait again, and the tags
        that had come back: these are neither settled nor waiting until ``replace()`` is called.
        """
        settled: list[int] = []
        late: list[int] = []
        refused, came_back = [], []
        under_way, entries, returned = self._under_way, self._entries, self._returned
        for number, multiple, is_ack in confirms:
            if multiple:
                numbers = range(self._low_number, min(number or self._next, self._next - 1) + 1)
            else:
                numbers = range(number, number + 1)
            for each in numbers:
                tag = under_way.pop(each, _NOBODY)
                if tag <= _NOBODY:
                    if tag and is_ack:
                        late.append(-tag)
                    continue
                if returned and tag in returned:
                    came_back.append(tag)
                elif is_ack:
                    self.size -= entries.pop(tag)[3]
                    settled.append(tag)
                else:
                    refused.append(tag)
        while self._low_number < self._next and self._low_number not in under_way:
            self._low_number += 1
        if refused:
            self._wait_again(refused)
        self.settled, self.late, self.returned = settled, late, came_back
        return len(settled), refused, came_back

    def is_owed_upto(self, tag: int) -> bool:
        """Whether the target has not confirmed all it is to have of what came up to this tag."""
        first = next(iter(self._waiting), tag + 1)
        return first <= tag or any(_NOBODY < each <= tag for each in self._under_way.values())

    def came_back(self, publish: bytes, header: bytes, frames: bytes, why: str) -> int | None:
        """The first entry under way that is this message; its confirm is still to come.

        Its method frame and its body have to be equal; equal headers are preferred, but a broker
        may have added to them. None: there is none; then the target cannot be trusted to have
        confirmed what it will confirm, unless ``is_owed_to_nobody``.
        """
        body = join_body(frames)
        similar = None
        for tag in self._under_way.values():
            parcel = self._entries.get(tag, _NOTHING)
            if parcel[0] != publish or parcel[3] != len(body) or tag in self._returned:
                continue
            if parcel[2] != frames and join_body(parcel[2]) != body:
                continue
            if parcel[1] == header:
                similar = tag
                break
            similar = tag if similar is None else similar
        if similar is not None:
            self._returned[similar] = why
        self._disown()
        return similar

    def why(self, tag: int) -> str:
        """Why one came back."""
        return self._returned[tag]

    def parcel(self, tag: int) -> Parcel:
        """What is to reach the target for a tag; KeyError when it is settled."""
        return self._entries[tag]

    def under_way(self) -> list[int]:
        """The tags whose confirm is to come, in the order they were sent."""
        return [tag for tag in self._under_way.values() if tag > _NOBODY]

    def replace(self, tag: int, parcel: Parcel) -> str:
        """Let another parcel stand for one that is of no more use; it waits.

        Returns why it came back, where it did.
        """
        self._entries[tag] = parcel
        self._wait_again([tag])
        return self._returned.pop(tag, "")

    def set_aside(self, tag: int, parcel: Parcel) -> None:
        """This one goes elsewhere: it is not sent to the target, and waits for ``settle()``."""
        self._entries[tag] = parcel
        if not self._is_aside(tag):
            insort(self._aside, tag)
        self._waiting.pop(tag, None)

    def settle(self, tag: int, parcel: Parcel) -> bool:
        """The one that was set aside has arrived elsewhere; False: it was forgotten meanwhile."""
        if self._entries.get(tag) is not parcel:
            return False
        self.size -= self._entries.pop(tag)[3]
        if self._is_aside(tag):
            del self._aside[bisect_left(self._aside, tag)]
        return True

    @property
    def has_aside(self) -> bool:
        """Whether anything is set aside."""
        return bool(self._aside)

    def next_aside(self, tag: int) -> int:
        """Which is set aside next after this one, the first after the last."""
        place = bisect_right(self._aside, tag)
        return self._aside[place if place < len(self._aside) else 0]

    def _is_aside(self, tag: int) -> bool:
        place = bisect_left(self._aside, tag)
        return self._aside[place : place + 1] == [tag]

    def acknowledge(self) -> int | None:
        """The tag up to which the source can be told that all is settled; None: nothing new."""
        mark = self._watermark()
        if mark <= self._acknowledged:
            return None
        self._acknowledged = mark
        return mark

    def lose(self) -> None:
        """The target is gone: what it did not confirm waits again, and its numbers begin anew."""
        self._under_way.clear()
        self._returned.clear()
        self._waiting = dict.fromkeys(tag for tag in self._entries if not self._is_aside(tag))
        self._next = self._low_number = 1

    def forget(self) -> None:
        """The source is gone and delivers again what was not acknowledged.

        Confirms that are still to come are for nobody.
        """
        past, returned = self.past, self._returned
        self._under_way = {
            number: tag if tag <= _NOBODY else _NOBODY if tag in returned else -(past + tag)
            for number, tag in self._under_way.items()
        }
        self._entries.clear()
        self._waiting.clear()
        self._returned.clear()
        self._aside.clear()
        self._batches.clear()
        self.size = 0
        self.past += self._top_tag
        self._low_tag, self._top_tag, self._acknowledged, self._sent = 1, 0, 0, 0

    def oldest(self) -> float | None:
        """When the oldest entry that is not settled was taken; None when there is none."""
        if not self._entries:
            return None
        self._watermark()
        return next(when for last, when in self._batches if last >= self._low_tag)

    def _watermark(self) -> int:
        """The highest tag at and below which everything is settled."""
        low, entries, top = self._low_tag, self._entries, self._top_tag
        while low <= top and low not in entries:
            low += 1
        self._low_tag = low
        while self._batches and self._batches[0][0] < low:
            del self._batches[0]
        return low - 1

    def _disown(self) -> None:
        """One of those forgotten may have come back, and nobody knows which: from now on no confirm
        tells that they arrived."""
        self._under_way = {number: max(tag, _NOBODY) for number, tag in self._under_way.items()}

    def _wait_again(self, tags: Iterable[int]) -> None:
        """Put tags back among those that wait, in the order of the source."""
        self._waiting = dict.fromkeys(sorted([*self._waiting, *tags]))
