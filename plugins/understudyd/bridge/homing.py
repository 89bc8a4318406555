"""Back to a preferred broker (priorityBackup) when it has been back for a while.

Rules
* While an end is connected to another member of its list, the preferred ones are tried: connected
  to, logged in and left again, every `LOOK_EVERY` seconds.
* The link moves when one has let us in each time for `STABLE` seconds: a broker that comes and goes
  is not returned to. Nothing is doubled by a move, what is in flight is settled first.
* An end that is lost is connected in the usual order, preferred ones first; that is no move.
* Whatever goes wrong with a look, the broker is not there, and it is looked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from understudy.core.redact import redact

__all__ = ["LOOK_EVERY", "STABLE", "Home", "Homing", "Steadiness"]

LOOK_EVERY = 1.0  # s
STABLE = 5.0  # s

_log = logging.getLogger("understudyd.bridge")


class Home(Protocol):
    """What knows the members of one end."""

    @property
    def is_away(self) -> bool:
        """Whether it is connected to another member than a preferred one."""

    async def is_home_open(self) -> bool:
        """Whether a preferred member lets us in now."""

    def come_home(self) -> None:
        """Connect to the preferred members first, next time."""


class Steadiness:
    """Since when a broker has been there each time. No I/O."""

    def __init__(self) -> None:
        self._since: float | None = None

    def saw(self, is_there: bool, now: float) -> bool:
        """Whether it has been there for long enough."""
        if not is_there:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= STABLE

    def forget(self) -> None:
        self._since = None


class Homing:
    """Of one link."""

    def __init__(self, homes: list[Home], move: Callable[[], None]) -> None:
        """``move`` is called when an end was told to come home."""
        self._homes = [(home, Steadiness()) for home in homes]
        self._move = move
        self._trouble = ""  # that was told

    @property
    def is_needed(self) -> bool:
        return bool(self._homes)

    async def watch(self) -> None:
        """Until it is cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for home, steadiness in self._homes:
                if not home.is_away:
                    steadiness.forget()
                elif steadiness.saw(await self._is_open(home), clock()) and home.is_away:
                    steadiness.forget()
                    home.come_home()
                    self._move()

    async def _is_open(self, home: Home) -> bool:
        try:
            return await home.is_home_open()
        except Exception as error:
            trouble = redact(f"{type(error).__name__}: {error}")
            if trouble != self._trouble:
                self._trouble = trouble
                _log.error("a preferred broker cannot be looked for: %s", trouble)
            return False
