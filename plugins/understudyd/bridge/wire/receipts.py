"""Which SENDs ask for a receipt, and what a receipt confirms. No I/O.

Rules
* Where a broker answers in order, one receipt stands for all before it. Then one is asked for
  `GROUP` messages or what there is; while `PIPELINE` of them are out, what is to be sent waits, and
  goes as one group. A slow broker so gets large groups, and a quick one small ones.
* Else each message asks.
* Receipts that nobody asked for, or that come again, mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from understudyd.bridge.wire.reader import Confirm

__all__ = ["GROUP", "PIPELINE", "Receipts"]

GROUP = 500  # messages; with 100 each costs ActiveMQ a fifth more
PIPELINE = 2  # groups under way


class Receipts:
    """Of one connection; messages are numbered 1, 2, 3 ..., each is three pieces of bytes, of which
    the second takes what ends its headers."""

    def __init__(self, *, is_cumulative: bool) -> None:
        self._is_cumulative = is_cumulative
        self._number = 0  # of the last message that was sent
        self._owed: set[int] = set()
        self._waiting: list[bytes] = []

    def send(self, pieces: list[bytes]) -> list[bytes]:
        """What to write of these now; the list is used up."""
        if not self._is_cumulative:
            first = self._number + 1
            self._number += len(pieces) // 3
            numbers = range(first, self._number + 1)
            self._owed.update(numbers)
            pieces[1::3] = [b"receipt:%d\n\n" % number for number in numbers]
            return pieces
        self._waiting += pieces
        return self._groups()

    def came(self, receipts: Iterable[str]) -> tuple[list[Confirm], list[bytes]]:
        """What these receipts confirm, and what to write now."""
        multiple = int(self._is_cumulative)
        confirms: list[Confirm] = []
        for text in receipts:
            number = int(text) if text.isdecimal() else 0
            if number in self._owed:
                self._owed.remove(number)
                confirms.append((number, multiple, True))
        return confirms, self._groups()

    def _groups(self) -> list[bytes]:
        pieces: list[bytes] = []
        while self._waiting and len(self._owed) < PIPELINE:
            group = self._waiting[: 3 * GROUP]
            del self._waiting[: 3 * GROUP]
            count = len(group) // 3
            self._number += count
            self._owed.add(self._number)
            group[1::3] = [b"\n"] * (count - 1) + [b"receipt:%d\n\n" % self._number]
            pieces += group
        return pieces
