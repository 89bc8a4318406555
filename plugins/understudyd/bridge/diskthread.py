"""A thread for one folder or file: a disk that is slow, or hangs, holds up one link and no loop.

Rules
* One call after the other. A caller that is cancelled leaves its call to be done.
* A call that takes long is told in the log, and waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["DiskThread"]

LONG = 10.0  # s; a disk that writes answers long before

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("understudyd.bridge")


class DiskThread:
    """Used in the loop's thread; begun when it is needed."""

    def __init__(self, about: str) -> None:
        """``about`` is what it works for, for the log."""
        self._about = about
        self._pool: ThreadPoolExecutor | None = None

    async def do(self, what: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What the call returns, or raises."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "disk")
        call = asyncio.wrap_future(self._pool.submit(what, *given, **named))
        call.add_done_callback(_hear)
        if not (await asyncio.wait({call}, timeout=LONG))[0]:
            _log.error(
                "%s: the disk has not answered for %g s; it is waited for", self._about, LONG
            )
            await asyncio.wait({call})
            _log.warning("%s: the disk answers again", self._about)
        return call.result()

    def end(self) -> None:
        """Let go of the thread; it ends when what it does is done."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def _hear(call: asyncio.Future[Any]) -> None:
    """Whoever asked may be gone, and then nobody else takes what it raised."""
    if not call.cancelled():
        call.exception()
