"""Keeps back what the target has already; between what the ends of a link tell, and its machine.

Rules
* What the target confirmed is written down before the source is told, and before it delivers more
  than it might. Until it is, a source that is to be closed stays open, and hears of it; a source is
  opened when all is written. On a disk that hangs the link waits, and is tried again as one whose
  source cannot be had.
* Without it (`NoFilter`) everything goes through, and costs a call for each batch.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from understudyd.bridge.dedup.identity import HasPlaces, Identify, identify_by
from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.dedup.memory import Change, Memory
from understudyd.bridge.dedup.scribe import Scribe
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.port import ConnectionFailed, SourceEnd
from understudyd.bridge.ledger import Ledger

__all__ = ["Filter", "NoFilter"]

_log = logging.getLogger("understudyd.bridge")


class NoFilter:
    """What comes again is sent again."""

    duplicates = 0
    """Messages that were not sent, since the target has them."""

    async def begin(self, ledger: Ledger) -> None:
        """The source is about to be opened; what it delivered before was forgotten. Raises
        ConnectionFailed where it is not to be opened now."""

    def sift(self, deliveries: list[Any], source: SourceEnd) -> list[Any]:
        """Those that are to be sent."""
        return deliveries

    def target_is(self, target: Dialect | None) -> None:
        """The target was opened."""

    def confirmed(self, ledger: Ledger) -> None:
        """The target has confirmed something."""

    def forget(self, tags: Sequence[int]) -> None:
        """These go to a parking queue, and may be sent from there once more."""

    def acknowledge(self, tag: int, tell: Callable[[int], None]) -> None:
        """All up to this tag is settled: tell the source, when that may be."""
        tell(tag)

    def follow(self, step: Callable[[], None]) -> None:
        """Ask something of the source, when it was told what is settled so far."""
        step()

    def leave(self, close: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        """Close the source, when it was told all; the goodbye is to be awaited."""
        return close()

    async def end(self) -> None:
        """The link has ended."""


class Filter(NoFilter):
    def __init__(self, journal: Journal, wants_target: str = "") -> None:
        """``wants_target``: who wants the target to know messages again, for the log, where that is
        wanted."""
        self._scribe = Scribe(journal)
        self._wants_target = wants_target
        self._told = ""
        self._memory: Memory | None = None
        self._source: Dialect | None = None
        self._identify: Identify

    async def begin(self, ledger: Ledger) -> None:
        try:
            await self._scribe.written()
            rows = await self._scribe.open()
        except TimeoutError:
            raise ConnectionFailed(f"{self._scribe}: the disk does not answer") from None
        if self._memory is None:  # whoever wrote before has ended
            self._memory = Memory(rows)
        self._memory.begin(ledger.past)

    def sift(self, deliveries: list[Any], source: SourceEnd) -> list[Any]:
        assert self._memory is not None
        assert source.dialect is not None
        if source.dialect is not self._source:
            places = source if isinstance(source, HasPlaces) else None
            self._source, self._identify = source.dialect, identify_by(source.dialect, places)
        wanted, change = self._memory.sift(deliveries, self._identify)
        self._scribe.write(change)
        self.duplicates += len(deliveries) - len(wanted)
        return wanted

    def target_is(self, target: Dialect | None) -> None:
        if not self._wants_target or target is None or target.name == self._told:
            return
        self._told = target.name
        if target.stomp is None or not target.stomp.duplicate_id:
            _log.warning(
                "%s: the target is %s, which does not know messages again as Artemis does; what a "
                "journal can keep back is kept back, with dedup = 'target' as with 'journal'",
                self._wants_target,
                target.name,
            )

    def confirmed(self, ledger: Ledger) -> None:
        if self._memory is not None:
            settled, late = ledger.settled, ledger.late
            self._scribe.write(self._memory.confirmed(settled, late, ledger.past))
            self._memory.forget(ledger.returned)

    def forget(self, tags: Sequence[int]) -> None:
        assert self._memory is not None
        self._memory.forget(tags)

    def acknowledge(self, tag: int, tell: Callable[[int], None]) -> None:
        assert self._memory is not None
        self._scribe.write(self._memory.acknowledge(tag), partial(tell, tag))

    def follow(self, step: Callable[[], None]) -> None:
        self._scribe.write(Change(), step)

    def leave(self, close: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        return close() if self._scribe.is_idle else self._leave(close)

    async def end(self) -> None:
        await self._scribe.close()

    async def _leave(self, close: Callable[[], Awaitable[None]]) -> None:
        with suppress(TimeoutError):
            await self._scribe.written()
        await close()
