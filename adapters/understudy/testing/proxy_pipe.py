"""One direction of one proxied connection: pure, no socket, no clock.

``feed`` takes what the source sent, ``next_step`` says what may go to the sink now, ``advance``
tells how much of that went. Bytes leave in the order they came; nothing is dropped here. While a
cut is ordered, a step ends where the cut is due, and the first bytes of a frame stay behind until
its method is known, so that "before this method" is exact however the stream was split.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from understudy.testing.frames import FrameScanner, Mark
from understudy.testing.proxy_cuts import ByteCut, Cut, Direction, FrameCut, first_hit

__all__ = ["Conditions", "End", "Pipe"]

End = Literal["fin", "rst"]

HIGH_WATER = 1 << 20  # bytes queued; beyond, the source is not read, as with any full pipe
THROTTLE_STEP = 0.02  # seconds; a throttled pipe passes what these allow at once


@dataclass
class Conditions:
    """What the network is like now; shared by all connections of one proxy."""

    black_hole: bool = False
    one_way: Direction | None = None  # the only direction that passes; None = both do
    delay: float = 0.0  # seconds
    rate: float | None = None  # bytes per second, each connection and direction
    frame_cuts: list[FrameCut] = field(default_factory=list)
    byte_cuts: list[ByteCut] = field(default_factory=list)

    @property
    def is_silent(self) -> bool:
        """Whether a new connection gets no answer at all."""
        return self.black_hole or self.one_way is not None

    def passes(self, direction: Direction) -> bool:
        """Whether bytes of that direction may pass."""
        return not self.black_hole and self.one_way in (None, direction)

    def calm(self) -> None:
        """Back to normal; ordered cuts are disarmed."""
        self.black_hole, self.one_way, self.delay, self.rate = False, None, 0.0, None
        for cut in (*self.frame_cuts, *self.byte_cuts):
            cut.is_armed = False
        self.drop_disarmed()

    def drop_disarmed(self) -> None:
        """Forget the cuts that will not be made any more."""
        self.frame_cuts[:] = [cut for cut in self.frame_cuts if cut.is_armed]
        self.byte_cuts[:] = [cut for cut in self.byte_cuts if cut.is_armed]


class Pipe:
    """The queue of one direction. ``budgets`` is shared by both directions of a connection."""

    def __init__(
        self, direction: Direction, conditions: Conditions, budgets: dict[ByteCut, int]
    ) -> None:
        self.direction = direction
        self.wake_at: float | None = None  # when to ask again though nothing new happened
        self.end: End | None = None  # how the source ended
        self._end_at = 0.0
        self._conditions = conditions
        self._budgets = budgets
        self._chunks: deque[tuple[float, bytes | memoryview]] = deque()
        self._queued = 0
        self._passed = 0
        self._free_at = 0.0  # throttled until then
        self._scanner = FrameScanner()
        self._marks: deque[Mark] = deque()  # places not passed yet
        self._hit: Cut | None = None  # due here, after the bytes that passed last

    def __repr__(self) -> str:
        return f"<Pipe {self.direction}, {self._passed} passed, {self._queued} queued>"

    @property
    def is_full(self) -> bool:
        return self._queued >= HIGH_WATER

    def feed(self, data: bytes, now: float) -> None:
        """The source sent ``data``."""
        self._chunks.append((now, data))
        self._queued += len(data)
        self._marks.extend(self._scanner.feed(data))

    def finish(self, end: End, now: float) -> None:
        """The source has ended; nothing is fed any more."""
        self.end, self._end_at = end, now

    def is_drained(self, now: float) -> bool:
        """Whether the end of the source may be passed on now: everything before it has gone."""
        if self.end is None or self._chunks:
            return False
        due = self._end_at + self._conditions.delay
        self.wake_at = due if due > now else None
        return due <= now

    def discard(self) -> None:
        """The sink is dead: forget what is queued."""
        self._chunks.clear()
        self._marks.clear()
        self._queued = 0

    def next_step(self, now: float) -> bytes | memoryview | Cut | None:
        """What to do now: pass these bytes, make this cut, or nothing (see ``wake_at``)."""
        self.wake_at = None
        if self._hit is not None:
            if self._hit.is_armed:
                return self._hit
            self._hit = None
        if not self._chunks:
            return None
        arrived, chunk = self._chunks[0]
        due = arrived + self._conditions.delay
        if self._conditions.rate is not None:
            due = max(due, self._free_at)
        if due > now:
            self.wake_at = due
            return None
        limit = self._limit(len(chunk))
        if isinstance(limit, Cut):
            return limit
        return chunk if limit == len(chunk) else memoryview(chunk)[:limit] if limit else None

    def advance(self, n_bytes: int, now: float) -> None:
        """The sink took ``n_bytes`` of what ``next_step`` gave out."""
        arrived, chunk = self._chunks[0]
        if n_bytes == len(chunk):
            self._chunks.popleft()
        else:
            self._chunks[0] = (arrived, memoryview(chunk)[n_bytes:])
        self._queued -= n_bytes
        self._passed += n_bytes
        if self._conditions.rate is not None:
            self._free_at = max(now, self._free_at) + n_bytes / self._conditions.rate
        self._spend(n_bytes)
        self._pass_marks()

    def struck(self, cut: Cut) -> None:
        """The cut that ``next_step`` named is being made here."""
        self._hit = None
        if isinstance(cut, FrameCut):
            cut.seen = 0
        elif isinstance(cut, ByteCut):
            self._budgets.pop(cut, None)

    def _limit(self, size: int) -> int | Cut:
        """How many of the next ``size`` bytes may go in one step, or the cut that is due first."""
        if self._conditions.rate is not None:
            size = min(size, max(1, int(self._conditions.rate * THROTTLE_STEP)))
        for byte_cut, left in self._budgets.items():
            if byte_cut.counts(self.direction):
                size = min(size, left)
        aims = [cut for cut in self._conditions.frame_cuts if cut.direction == self.direction]
        if not aims:
            return size
        hit = first_hit(self._marks, aims)
        if hit is not None:
            position, frame_cut = hit
            if position == self._passed:  # the frame would begin with the next byte
                return frame_cut
            size = min(size, position - self._passed)
        if self.end is None and any(cut.before for cut in aims):
            size = min(size, max(0, self._queued - self._scanner.undecided))
        return size

    def _spend(self, n_bytes: int) -> None:
        for cut in self._budgets:
            if cut.counts(self.direction):
                self._budgets[cut] -= n_bytes
                if self._budgets[cut] <= 0 and self._hit is None:
                    self._hit = cut

    def _pass_marks(self) -> None:
        """Count the marks that have passed: a beginning once its first byte went."""
        cuts = [cut for cut in self._conditions.frame_cuts if cut.direction == self.direction]
        if not (self._chunks or cuts):
            self._marks.clear()
        marks = self._marks
        while marks and marks[0].position + marks[0].begins <= self._passed:
            mark = marks.popleft()
            for cut in cuts:
                if cut.is_about(mark) and cut.count() and self._hit is None:
                    self._hit = cut
