"""Opens and closes one end of a link, one thing after the other.

Rules
* `open` and `close` say what the end is to be, and return at once; it is done in that order.
* From a close on nothing is told of what was open, or was being opened, before it.
* A close is never given up. An opening is, by a close; one that succeeds nevertheless is closed.
* An opening begins when all that was open before it has said goodbye.
* An opening that raises what nobody expected is logged, and told as any other that failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from traceback import format_exception
from typing import ParamSpec, TypeAlias

from understudy.core.redact import redact
from understudyd.bridge.ends.port import ConnectionFailed

__all__ = ["EndWorker", "unexpected"]

_log = logging.getLogger("understudyd.bridge")

Opening: TypeAlias = Callable[[], Awaitable[None]]
Told = ParamSpec("Told")


class EndWorker:
    """Of one end; everything is called, and told, in the loop's thread."""

    def __init__(
        self,
        close: Callable[[], Awaitable[None]],
        on_up: Callable[[], None],
        on_failed: Callable[[ConnectionFailed], None],
    ) -> None:
        """``close`` lets go of the end at once, and returns the goodbye that is to be awaited."""
        self._close = close
        self._on_up = on_up
        self._on_failed = on_failed
        self._wanted: Opening | None = None
        self._goodbyes: deque[Awaitable[None]] = deque()
        self._opening: asyncio.Task[None] | None = None  # the one that counts
        self._is_heard = False
        self._task: asyncio.Task[None] | None = None

    def open(self, opening: Opening) -> None:
        """``on_up`` or ``on_failed`` follows, unless it is closed before."""
        self._wanted = opening
        self._work_on()

    def close(self) -> None:
        """Nothing more is told until it is opened again."""
        self._wanted = None
        self._is_heard = False
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._goodbyes.append(self._close())
        self._work_on()

    async def ended(self) -> None:
        """Wait until nothing is under way."""
        while self._task is not None:
            await asyncio.wait({self._task})

    def heard(self, hook: Callable[Told, None]) -> Callable[Told, None]:
        """The hook, deaf to what was closed."""

        def tell(*told: Told.args, **named: Told.kwargs) -> None:
            if self._is_heard:
                hook(*told, **named)

        return tell

    def _work_on(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._goodbyes or self._wanted is not None:
                if self._goodbyes:
                    await _said(self._goodbyes.popleft())
                elif self._wanted is not None:
                    opening, self._wanted = self._wanted, None
                    self._opening = asyncio.get_running_loop().create_task(self._open(opening))
                    self._is_heard = True
                    await asyncio.wait({self._opening})
        finally:
            self._task = None

    async def _open(self, opening: Opening) -> None:
        """It tells itself, so that nothing can happen to the end in between."""
        this = asyncio.current_task()
        failed: ConnectionFailed | None = None
        try:
            await opening()
        except ConnectionFailed as error:
            failed = error
        except Exception as error:
            failed = unexpected(error)
        if this is not self._opening:  # it was closed meanwhile
            if failed is None:
                self._goodbyes.append(self._close())
            return
        self._opening = None
        if failed is None:
            self._on_up()
        else:
            self._on_failed(failed)


def unexpected(error: Exception) -> ConnectionFailed:
    """What nobody expected, logged, as a failure that one lives with."""
    _log.error("unexpected: %s", redact("".join(format_exception(error))))
    return ConnectionFailed(f"unexpected: {type(error).__name__}: {redact(str(error))}")


async def _said(goodbye: Awaitable[None]) -> None:
    try:
        await goodbye
    except ConnectionFailed:
        pass
    except Exception as error:
        unexpected(error)
