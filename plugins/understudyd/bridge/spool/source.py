"""A source whose messages are kept on disk between it and the link. To the link it is a source.

Rules
* The link reads from the disk, in order, from what it has not acknowledged yet; opening and closing
  is of this end alone. Messages are taken from the real source whatever the link does (`intake`),
  while it is not paused.
* An acknowledgement is on disk a moment later. Who is killed before delivers again what was
  acknowledged last: no more than the window.
* What has just come is given to the link without being read from the disk again.
* What cannot be read now is a source that is lost; it is opened again after a back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Final

from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.port import ConnectionFailed, SourceEnd, SourceHooks
from understudyd.bridge.ends.stream import goodbye
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.spool.format import OVERHEAD
from understudyd.bridge.spool.intake import Intake
from understudyd.bridge.spool.port import SpoolFailed
from understudyd.bridge.spool.records import Meta, decode, decode_meta
from understudyd.bridge.spool.shelf import Shelf
from understudyd.bridge.spool.words import ASKED, FAILED, Trouble, shown
from understudyd.bridge.worker import unexpected

__all__ = ["SpooledSource"]

AHEAD: Final = 2 << 20  # bytes that wait here for the link; more is read when it has taken these
BATCH: Final = 256 << 10  # bytes that the link gets at a time; then it is asked whether it reads
AGAIN: Final = 1.0  # s after which a cursor that could not be written is written again

_log = logging.getLogger("understudyd.bridge")


class SpooledSource:
    """Of one link."""

    def __init__(
        self,
        make: Callable[[SourceHooks[Any]], SourceEnd],
        shelf: Shelf,
        settings: LinkSettings,
        hooks: SourceHooks[Any],
        rng: Random,
        on_failed: Callable[[], None],
    ) -> None:
        """``make`` makes the real source; ``on_failed`` is told when its connection failed."""
        self._shelf = shelf
        self._hooks = hooks
        self._intake = Intake(make, shelf, settings, rng, on_kept=self._kept, on_failed=on_failed)
        self._is_open = self._is_resting = self._is_due = False
        self._is_filling = self._is_ending = False
        self._is_reading = True
        self._window = 0
        self._given_frame_max = 0
        self._ahead: deque[tuple[int, bytes]] = deque()  # number and payload
        self._ahead_size = 0
        self._ahead_meta = b""
        self._ahead_read: Meta | None = None  # what that says
        self._meta: Meta | None = None  # of what was given last
        self._next = 1  # the number that comes after these
        self._tag = 0  # the last one that was given
        self._again = 0  # what is below may have been given before; 0: not known yet
        self._given: deque[tuple[int, int, int, str]] = deque()  # tag, number, size, series
        self._settled = (0, 0)  # the link has acknowledged all below; bytes that are not told yet
        self._saving: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._unsaved = ""  # why the cursor could not be written

    # What is told

    @property
    def spooled(self) -> int:
        """Messages on disk that the target has not confirmed."""
        return self._shelf.next - max(self._settled[0], self._shelf.cursor)

    @property
    def spooled_bytes(self) -> int:
        return max(0, self._shelf.size - self._settled[1])

    @property
    def moved(self) -> int:
        """Messages that the source's broker has moved to its dead letter queue."""
        return self._intake.moved

    def shown(self, state: str, reason: str) -> tuple[str, str]:
        """State and reason of the link, and of the spool."""
        trouble = self._intake.trouble
        if trouble is None and self._unsaved:
            trouble = Trouble(FAILED, f"spool {self._unsaved}")
        return shown(trouble, state, reason)

    @property
    def dialect(self) -> Dialect | None:
        """Of the messages that were given last."""
        real = self._intake.source.dialect
        if self._meta is None or (real is not None and real.name == self._meta.dialect.name):
            return real
        return self._meta.dialect

    @property
    def frame_max(self) -> int:
        if not self._is_open:
            return 0
        return min(self._given_frame_max, self._intake.source.frame_max or self._given_frame_max)

    # What the bridge asks for

    def follow(self, state: str) -> None:
        """Take messages from the real source, or none, as the state of the link has it."""
        is_wanted = state not in ASKED
        if is_wanted is not self._is_filling and not self._is_ending:
            self._is_filling = is_wanted
            self._intake.want(is_wanted)

    async def end(self) -> None:
        """Take nothing more, and let go of the folder."""
        self._is_ending = True
        self._intake.want(False)
        await self._intake.ended()
        for task in (self._fetching, self._saving):
            if task is not None:
                await asyncio.wait({task})
        with contextlib.suppress(SpoolFailed):
            await self._shelf.close()

    # What the link asks for

    async def open(self, window: int, frame_max: int) -> None:
        try:
            await self._shelf.open()
        except SpoolFailed as failed:
            raise ConnectionFailed(f"spool {failed}") from failed
        self._settled = (max(self._settled[0], self._shelf.cursor), self._settled[1])
        self._again = max(self._next, self._again) if self._again else self._shelf.next
        self._window, self._given_frame_max = window, frame_max
        self._tag, self._next = 0, self._settled[0]
        self._given.clear()
        self._drop_ahead()
        self._is_resting, self._is_open = False, True
        self._wake()

    def widen(self, window: int) -> None:
        self._window, self._is_resting = window, False
        self._intake.rest(False)
        self._wake()

    def rest(self) -> None:
        """Give the link nothing, and leave what is at the source to others."""
        self._is_resting = True
        self._intake.rest(True)

    async def ready(self) -> int:
        return self._shelf.next - self._next + len(self._ahead)

    def read(self, is_wanted: bool) -> None:
        self._is_reading = is_wanted
        if is_wanted:
            self._wake()

    def acknowledge(self, tag: int) -> None:
        number, size = self._settled
        while self._given and self._given[0][0] <= tag:
            _, last, length, _ = self._given.popleft()
            number, size = last + 1, size + length
        self._settled = (number, size)
        if self._saving is None:
            self._saving = self._run(self._save())
        self._wake()

    def place(self, tag: int) -> tuple[bytes, bool]:
        """Where a message is kept, see `dedup.identity.HasPlaces`."""
        _, number, _, series = self._given[tag - self._given[0][0]]
        return f"{series} {number}".encode(), number < self._again

    async def dead_letter(self, tag: int) -> None:
        """It is not with its broker any more."""
        raise ConnectionFailed("the message is in the spool, and not at its broker any more")

    def close(self) -> Awaitable[None]:
        if self._is_resting:
            self._intake.rest(False)
        self._is_open = False
        self._drop_ahead()
        return goodbye(None)

    # To the link

    def _wake(self) -> None:
        if self._is_open and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        """Give the link some, and come again while there are more."""
        self._is_due = False
        if not self._is_open or not self._is_reading or self._is_resting:
            return
        if not self._ahead:
            self._fetch()
            return
        try:
            batch = self._next_batch()
        except Exception as error:
            self._fail(str(unexpected(error)))
            return
        if batch:
            self._wake()
            self._hooks.on_deliveries(batch)

    def _next_batch(self) -> list[Any]:
        room, size = self._window - len(self._given), 0
        batch: list[Any] = []
        meta = self._ahead_read
        assert meta is not None
        while self._ahead and len(batch) < room and size < BATCH:
            number, payload = self._ahead.popleft()
            self._tag += 1
            size += len(payload)
            given = (self._tag, number, OVERHEAD + len(payload), meta.series)
            self._given.append(given)
            is_again = number < self._again
            batch.append(decode(self._tag, payload, meta, self._given_frame_max, is_again=is_again))
        if batch:
            self._meta = meta
        self._ahead_size -= size
        return batch

    def _kept(self, first: int, payloads: list[bytes], meta: bytes) -> None:
        """These have come to disk."""
        is_next = self._is_open and self._fetching is None and first == self._next
        is_like = not self._ahead or meta == self._ahead_meta
        if is_next and is_like and self._ahead_size < AHEAD:
            self._add(list(enumerate(payloads, first)), meta)
        self._wake()

    def _add(self, records: list[tuple[int, bytes]], meta: bytes) -> None:
        if meta != self._ahead_meta or self._ahead_read is None:
            self._ahead_read, self._ahead_meta = decode_meta(meta), meta
        self._ahead.extend(records)
        self._ahead_size += sum([len(payload) for _, payload in records])
        self._next = records[-1][0] + 1

    def _drop_ahead(self) -> None:
        self._ahead.clear()
        self._ahead_size = 0

    def _fetch(self) -> None:
        if self._fetching is None and self._next < self._shelf.next:
            self._fetching = self._run(self._read_on(self._next))

    async def _read_on(self, number: int) -> None:
        failed, upto = "", self._shelf.next
        try:
            meta, records = await self._shelf.read(number)
            if not self._is_open or self._next != number:
                pass  # it was opened anew meanwhile
            elif records:
                self._add(records, meta)
            else:
                self._next = upto  # nothing of it can be read; more may have come since
        except SpoolFailed as error:
            failed = f"spool {error}"
        except Exception as error:
            failed = str(unexpected(error))
        self._fetching = None
        if failed:
            self._fail(failed)
        self._wake()

    def _fail(self, why: str) -> None:
        if self._is_open:
            self._is_open = False
            self._hooks.on_lost(why)

    # To the disk

    async def _save(self) -> None:
        """Write down what the link has acknowledged, until that is done or all ends."""
        while self._settled[0] > self._shelf.cursor or self._unsaved:
            number, size = self._settled
            self._settled = (number, 0)
            try:
                await self._shelf.acknowledge(number, size)
                self._unsaved = ""
                self._intake.wake()
            except SpoolFailed as failed:
                if str(failed) != self._unsaved:
                    self._unsaved = str(failed)
                    _log.error("spool %s", failed)
                if self._is_ending:
                    break
                await asyncio.sleep(AGAIN)
        self._saving = None

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)
