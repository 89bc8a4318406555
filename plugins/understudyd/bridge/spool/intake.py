"""Takes messages from a source into the spool, whether or not the target is there.

Rules
* Settled at the source is what is on disk, nothing else.
* While something is written, what comes is gathered: one fsync is for all of it.
* Room is made sure of before the source is opened. When there is none left the source is closed,
  which gives back what is not on disk; it is opened again when there is room.
* The window of the source begins anew with each opening, see `link`; not after a rest (`stays`).
* What its broker does not show is no message to keep: it goes to that broker's dead letter queue,
  or stays, as without a spool (`parking_translated`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from random import Random
from typing import Any

from understudyd.bridge.content import Hidden, Untranslatable
from understudyd.bridge.counts import messages
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.endpoints import FRAME_MAX
from understudyd.bridge.ends.port import (
    CanRest,
    ConnectionFailed,
    DeadLetters,
    SourceEnd,
    SourceHooks,
)
from understudyd.bridge.ends.stream import within
from understudyd.bridge.mapping import read
from understudyd.bridge.settings import FIRST_WINDOW, LinkSettings
from understudyd.bridge.spool.port import SpoolFailed, SpoolFull
from understudyd.bridge.spool.records import encode, encode_meta
from understudyd.bridge.spool.shelf import Shelf
from understudyd.bridge.spool.words import FAILED, FULL, SOURCE, Trouble
from understudyd.bridge.worker import unexpected

__all__ = ["Intake", "Kept"]

Kept = Callable[[int, "list[bytes]", bytes], None]
"""Told what has come to disk: the number of the first, payloads, meta."""

_log = logging.getLogger("understudyd.bridge")


class Intake:
    """Of one source."""

    def __init__(
        self,
        make: Callable[[SourceHooks[Any]], SourceEnd],
        shelf: Shelf,
        settings: LinkSettings,
        rng: Random,
        *,
        on_kept: Kept,
        on_failed: Callable[[], None],
    ) -> None:
        """``make`` makes the source; ``on_failed`` is told when its connection failed."""
        self.source = make(SourceHooks(self._came, self._went))
        self.trouble: Trouble | None = None
        """Why nothing is taken; None: it is, or nobody wants it."""
        self.moved = 0
        """Messages that the broker has moved to its dead letter queue."""
        self._shelf = shelf
        self._settings = settings
        self._rng = rng
        self._series = f"{rng.getrandbits(64):016x}"
        self._on_kept = on_kept
        self._on_failed = on_failed
        self._is_wanted = self._is_resting = False
        self._is_heard = self._is_open = self._keeps_window = False
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0  # in a row
        self._arrived: list[Any] = []
        self._size = 0  # bytes of their bodies
        self._lost = ""  # why the source is gone
        self._window = self._settled = 0

    def want(self, is_wanted: bool) -> None:
        """Whether to take messages."""
        self._is_wanted = is_wanted
        self._woken.set()
        if self._goes and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def rest(self, is_resting: bool) -> None:
        """Leave messages to others for a while, or no longer."""
        if is_resting is self._is_resting:
            return
        self._is_resting = is_resting
        if not (self._is_open and isinstance(self.source, CanRest)):
            self.want(self._is_wanted)
        elif is_resting:
            self.source.rest()
        else:
            self.source.widen(self._window)

    def wake(self) -> None:
        """There may be room."""
        self._woken.set()

    async def ended(self) -> None:
        while self._task is not None:
            await asyncio.wait({self._task})

    @property
    def _goes(self) -> bool:
        """Whether the source is to be open."""
        may_rest = self._is_open and isinstance(self.source, CanRest)
        return self._is_wanted and (may_rest or not self._is_resting)

    async def _work(self) -> None:
        self.trouble = Trouble(SOURCE, "connecting to the source")
        while self._goes:
            await self._try()
        self._task = self.trouble = None

    async def _try(self) -> None:
        """Take messages until something keeps from it, and wait as long as it may."""
        check: Callable[[], object] = bool
        try:
            await self._shelf.open()
            await self._shelf.prepare()
            await self._take()
            return
        except SpoolFull as full:
            self._failures = 0
            self._tell(FULL, f"the spool is full: {full}")
            await self._until(lambda: self._shelf.has_room)
            return
        except SpoolFailed as failed:
            self._tell(FAILED, f"spool {failed}")
            before = self._shelf.cursor
            check = lambda: self._shelf.cursor > before  # noqa: E731  # which may have made room
        except ConnectionFailed as failed:
            self._on_failed()
            self._tell(SOURCE, f"source: {failed}")
        except Exception as error:
            self._tell(SOURCE, f"source: {unexpected(error)}")
        self._failures += 1
        backoff = self._settings.source_backoff or self._settings.backoff
        delay = backoff.delay_ms(self._failures, first_connection=True, rng=self._rng)
        await self._until(check, delay / 1000)

    async def _take(self) -> None:
        """Until nobody wants it, or it fails."""
        source, self._arrived, self._size, self._lost = self.source, [], 0, ""
        if not self._keeps_window:
            self._window, self._settled = min(FIRST_WINDOW, self._settings.prefetch), 0
        self._is_heard, self._keeps_window = True, False
        opening = asyncio.ensure_future(source.open(self._window, FRAME_MAX))
        opening.add_done_callback(lambda _: self._woken.set())
        try:
            await self._until(opening.done)
            if not opening.done():
                return
            opening.result()
            assert source.dialect is not None
            meta = encode_meta(source.dialect, source.frame_max, self._series)
            self.trouble, self._is_open = None, True
            while self._goes:
                if self._lost:
                    raise ConnectionFailed(self._lost)
                if self._arrived:
                    await self._keep(source.dialect, meta)
                else:
                    await self._until(self._has_news, self._settings.watch_time)
                    if not self._has_news():
                        await self._look()
            self._keeps_window = self._is_resting
        finally:
            self._is_heard = self._is_open = False
            opening.cancel()
            await asyncio.wait({opening})
            await _quietly(source)

    def _has_news(self) -> bool:
        return bool(self._arrived or self._lost)

    async def _look(self) -> None:
        """Nothing has come for long: is anything there?"""
        waits = await self.source.ready() if self._goes and not self._is_resting else 0
        if waits > 0 and not self._arrived:
            waited = self._settings.watch_time
            raise ConnectionFailed(f"{messages(waits)} ready, none came for {waited:g} s")

    async def _keep(self, dialect: Dialect, meta: bytes) -> None:
        """Put what has arrived on disk, and settle it."""
        batch, self._arrived, self._size = self._arrived, [], 0
        self.source.read(True)
        now = time.time_ns() // 1_000_000
        plain = next((at for at, one in enumerate(batch) if _why_hidden(one, dialect)), len(batch))
        payloads = [encode(one, dialect, now) for one in batch[:plain]]
        done = 0
        while done < plain:
            first = self._shelf.next
            kept = await self._shelf.append(payloads[done:], meta)
            self._on_kept(first, payloads[done : done + kept], meta)
            if self._lost:
                return
            done += kept
            self.source.acknowledge(batch[done - 1][0])
            self._failures = 0
            self._count(kept)
        if plain < len(batch):
            await self._dead_letter(batch[plain], _why_hidden(batch[plain], dialect))
            self._arrived = batch[plain + 1 :] + self._arrived

    async def _dead_letter(self, delivery: Any, why: str) -> None:
        tag, content = delivery
        is_kept = content.headers.get("persistent") == "true"
        if not (is_kept and isinstance(self.source, DeadLetters)):
            raise ConnectionFailed(why)
        await self.source.dead_letter(tag)
        if not self._lost:
            self.source.acknowledge(tag)
        self.moved += 1
        _log.warning("a message was moved to the broker's dead letter queue: %s", why)

    def _count(self, kept: int) -> None:
        self._settled += kept
        if self._settled >= self._window < self._settings.prefetch:
            self._window, self._settled = min(2 * self._window, self._settings.prefetch), 0
            if not self._is_resting:
                self.source.widen(self._window)

    def _came(self, deliveries: list[Any]) -> None:
        if not self._is_heard:
            return
        self._arrived += deliveries
        self._size += sum(_size_of(one) for one in deliveries)
        if self._size >= self._settings.size:
            self.source.read(False)
        self._woken.set()

    def _went(self, reason: str) -> None:
        self._lost = reason
        self._woken.set()

    def _tell(self, state: str, reason: str) -> None:
        self.trouble = Trouble(state, reason)

    async def _until(self, check: Callable[[], object], seconds: float | None = None) -> None:
        """Until it is so, or the time is over, or nobody wants anything any more."""
        clock = asyncio.get_running_loop().time
        deadline = None if seconds is None else clock() + seconds
        while self._goes and not check():
            self._woken.clear()
            if deadline is None:
                await self._woken.wait()
            elif (left := deadline - clock()) > 0:
                try:
                    await within(left, self._wait())
                except TimeoutError:
                    return
            else:
                return

    async def _wait(self) -> None:
        await self._woken.wait()


def _why_hidden(delivery: Any, dialect: Dialect) -> str:
    """Why its broker may have more of it than it shows; empty: it has not."""
    if dialect.stomp is None or not dialect.stomp.shown_empty:
        return ""
    content = delivery[1]
    if content.body and "transformation-error" not in content.headers:
        return ""
    try:
        read(content, dialect, 0)
    except Hidden as error:
        return error.reason
    except Untranslatable:
        pass
    return ""


def _size_of(delivery: Any) -> int:
    return int(delivery[4]) if len(delivery) > 2 else len(delivery[1].body)


async def _quietly(source: SourceEnd) -> None:
    try:
        await source.close()
    except ConnectionFailed:
        pass
    except Exception as error:
        unexpected(error)
