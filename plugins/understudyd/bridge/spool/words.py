"""What is told of a spool. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

__all__ = ["ASKED", "FAILED", "FULL", "SOURCE", "NoSpool", "Spool", "Spooling", "Trouble", "shown"]

FULL: Final = "spool-full"
FAILED: Final = "spool-failed"
SOURCE: Final = "waiting-source"  # as a link without a spool
ASKED: Final = ("idle", "draining", "pausing", "returning", "paused", "given-up", "stopped")
"""The states of a link in which nothing is taken: somebody has asked for that."""


@dataclass(frozen=True)
class Spooling:
    """Where messages lie on disk on their way to the target."""

    folder: Path
    size: int
    """Bytes for each destination."""
    is_back: bool = False
    """Whether it is the second way of a duplex bridge."""


class Trouble(NamedTuple):
    """Why a spool takes nothing."""

    state: str
    reason: str


def shown(trouble: Trouble | None, state: str, reason: str) -> tuple[str, str]:
    """State and reason of a link together with those of its spool: whichever is worse."""
    if trouble is None or state in ASKED:
        return state, reason
    if state in ("running", SOURCE):
        return trouble
    if trouble.state == SOURCE:
        return state, f"{reason}; {trouble.reason}"
    return trouble.state, f"{trouble.reason}; {reason}"


class Spool(Protocol):
    """What a link has between its source and itself."""

    @property
    def spooled(self) -> int | None:
        """Messages on disk that the target has not confirmed; None: there is no spool."""

    @property
    def spooled_bytes(self) -> int | None: ...

    @property
    def moved(self) -> int:
        """Messages that the source's broker has moved to its dead letter queue."""

    def shown(self, state: str, reason: str) -> tuple[str, str]:
        """State and reason of the link, and of the spool."""

    def follow(self, state: str) -> None:
        """Take messages from the source, or none, as the state of the link has it."""

    async def end(self) -> None:
        """Take nothing more, and let go of everything."""


class NoSpool:
    """Messages wait at the source."""

    spooled = spooled_bytes = None
    moved = 0

    def shown(self, state: str, reason: str) -> tuple[str, str]:
        return state, reason

    def follow(self, state: str) -> None: ...

    async def end(self) -> None: ...
