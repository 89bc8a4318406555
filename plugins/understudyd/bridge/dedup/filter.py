"""Keeps back what the target has already; between what the ends of a link tell, and its machine.

Rules
* What the target confirmed is written down before the source is told, in the same turn.
* Without it (`NoFilter`) everything goes through, and costs a call for each batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from understudyd.bridge.dedup.identity import Identify, identify_by
from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.dedup.memory import Memory
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ledger import Ledger

__all__ = ["Filter", "NoFilter"]

_log = logging.getLogger("understudyd.bridge")


class NoFilter:
    """What comes again is sent again."""

    duplicates = 0
    """Messages that were not sent, since the target has them."""

    def begin(self, ledger: Ledger) -> None:
        """The source is about to be opened; what it delivered before was forgotten."""

    def sift(self, deliveries: list[Any], source: Dialect | None) -> list[Any]:
        """Those that are to be sent."""
        return deliveries

    def target_is(self, target: Dialect | None) -> None:
        """The target was opened."""

    def confirmed(self, ledger: Ledger) -> None:
        """The target has confirmed something."""

    def forget(self, tags: Sequence[int]) -> None:
        """These go to a parking queue, and may be sent from there once more."""

    def acknowledge(self, tag: int) -> None:
        """The source is about to be told that all up to this tag is settled."""

    def close(self) -> None:
        """The link has ended."""


class Filter(NoFilter):
    def __init__(self, journal: Journal, wants_target: str = "") -> None:
        """``wants_target``: who wants the target to know messages again, for the log, where that is
        wanted."""
        self._journal = journal
        self._wants_target = wants_target
        self._told = ""
        self._memory: Memory | None = None
        self._source: Dialect | None = None
        self._identify: Identify

    def begin(self, ledger: Ledger) -> None:
        if self._memory is None:  # whoever wrote before has ended
            self._memory = Memory(self._journal.open())
        self._memory.begin(ledger.past)

    def sift(self, deliveries: list[Any], source: Dialect | None) -> list[Any]:
        assert self._memory is not None
        assert source is not None
        if source is not self._source:
            self._source, self._identify = source, identify_by(source)
        wanted, change = self._memory.sift(deliveries, self._identify)
        self._journal.write(change)
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
            self._journal.write(self._memory.confirmed(settled, late, ledger.past))
            self._memory.forget(ledger.returned)

    def forget(self, tags: Sequence[int]) -> None:
        assert self._memory is not None
        self._memory.forget(tags)

    def acknowledge(self, tag: int) -> None:
        if self._memory is not None:
            self._journal.write(self._memory.acknowledge(tag))

    def close(self) -> None:
        self._journal.close()
