"""A journal that is written in a thread of its own, in order.

Rules
* What changes while something is written is gathered: one transaction is for all of it.
* What is to follow a change follows when it is written, and all before it.
* Nobody waits for ever for a disk that hangs: who asks is told that it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.dedup.memory import Change, Row
from understudyd.bridge.diskthread import DiskThread
from understudyd.bridge.worker import unexpected

__all__ = ["Scribe"]

PATIENCE = 10.0  # s


class Scribe:
    """Of one journal; used in the loop's thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = DiskThread(str(journal))
        self._changes: list[Change] = []
        self._followers: list[Callable[[], None]] = []
        self._opening: asyncio.Task[list[Row]] | None = None
        self._writing: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self._journal)

    @property
    def is_idle(self) -> bool:
        """Whether all is written."""
        return self._writing is None

    async def open(self) -> list[Row]:
        """What was written before; raises TimeoutError. Once is enough."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._thread.do(self._journal.open))
        await _in_time(self._opening)
        return self._opening.result()

    def write(self, change: Change, then: Callable[[], None] | None = None) -> None:
        """``then`` is called when it is written; at once where there is nothing to write."""
        if not any(change) and self._writing is None:
            if then is not None:
                then()
            return
        self._changes.append(change)
        if then is not None:
            self._followers.append(then)
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    async def written(self) -> None:
        """Until all is written, and what was to follow is done; raises TimeoutError."""
        if self._writing is not None:
            await _in_time(self._writing)

    async def close(self) -> None:
        """Let go of the file, of one that hangs when it answers."""
        closing = asyncio.ensure_future(self._thread.do(self._journal.close))
        await asyncio.wait({closing}, timeout=PATIENCE)
        self._thread.end()

    async def _write(self) -> None:
        try:
            while self._changes:
                changes, self._changes = self._changes, []
                followers, self._followers = self._followers, []
                await self._thread.do(self._journal.write, *changes)
                for follower in followers:
                    _go_on(follower)
        finally:
            self._writing = None


def _go_on(follower: Callable[[], None]) -> None:
    try:
        follower()
    except Exception as error:  # the others do not know of it
        unexpected(error)


async def _in_time(task: asyncio.Task[Any]) -> None:
    if not (await asyncio.wait({task}, timeout=PATIENCE))[0]:
        raise TimeoutError
