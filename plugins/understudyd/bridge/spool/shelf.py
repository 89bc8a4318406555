"""A store in a thread of its own: no fsync ever holds up the loop.

Rule: what the disk refuses is `SpoolFailed`, with folder and cause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from understudyd.bridge.diskthread import DiskThread
from understudyd.bridge.spool.disk import Folder
from understudyd.bridge.spool.port import SpoolFailed
from understudyd.bridge.spool.store import Batch, Store

__all__ = ["Shelf"]

_log = logging.getLogger("understudyd.bridge")


class Shelf:
    """Of one link; used in the loop's thread."""

    def __init__(self, folder: Folder, store: Store, told: str) -> None:
        """``told`` is what the folder is called."""
        self._folder = folder
        self._store = store
        self._told = told
        self._thread = DiskThread(f"spool {told}")
        self._opening = asyncio.Lock()
        self._is_open = False
        self._damage = 0  # how much of it was told

    def __str__(self) -> str:
        return self._told

    @property
    def cursor(self) -> int:
        return self._store.cursor

    @property
    def next(self) -> int:
        return self._store.next

    @property
    def messages(self) -> int:
        """Those that are not acknowledged."""
        return self._store.messages

    @property
    def size(self) -> int:
        """Bytes of these."""
        return self._store.bytes

    @property
    def has_room(self) -> bool:
        return self._store.has_room

    async def open(self) -> None:
        """Claim the folder and see what is there; raises SpoolFailed. Once is enough."""
        async with self._opening:
            if not self._is_open:
                await self._do(self._open)
                self._is_open = True

    async def prepare(self) -> None:
        """See to it that there is room; raises SpoolFailed or SpoolFull."""
        await self._do(self._store.prepare)

    async def append(self, payloads: Sequence[bytes], meta: bytes) -> int:
        """How many of them are on disk now; raises SpoolFailed or SpoolFull."""
        kept: int = await self._do(self._store.append, payloads, meta)
        return kept

    async def read(self, number: int) -> Batch:
        """Raises SpoolFailed."""
        batch: Batch = await self._do(self._store.read, number)
        return batch

    async def acknowledge(self, number: int, size: int) -> None:
        """Raises SpoolFailed; it is in force in any case, but not on disk."""
        await self._do(self._store.acknowledge, number, size)

    async def close(self) -> None:
        """Let go of the folder."""
        async with self._opening:
            await self._do(self._folder.release)
            self._thread.end()
            self._is_open = False

    def _open(self) -> None:
        self._folder.claim()
        self._store.open()

    async def _do(self, what: Callable[..., Any], *given: Any) -> Any:
        try:
            return await self._thread.do(what, *given)
        except OSError as error:
            raise SpoolFailed(f"{self._told}: {error.strerror or error}") from error
        finally:
            for lost in self._store.damage[self._damage :]:
                self._damage += 1
                _log.error("spool %s: %s", self._told, lost)
