"""How often an end may fail to be connected before its link gives up. No I/O.

Rules (those of the clients, see `understudy.core.machine`)
* A pass is one attempt at each member of the end's list. `passes` of them may fail in a row; until
  the end was connected for the first time it is `first_passes`.
* With ``reconnect=false`` an end that was connected and is lost is not connected again. What we
  close ourselves is not lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FOR_EVER", "Limits", "Patience"]


@dataclass(frozen=True)
class Limits:
    """None: for ever."""

    first_passes: int | None = None
    passes: int | None = None
    reconnects: bool = True


FOR_EVER: Final = Limits()


class Patience:
    """With one end of a link."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._was_connected = False  # ever
        self._is_connected = False
        self._failed = 0  # passes in a row

    def opens(self) -> None:
        """It is being connected."""
        self._is_connected = False

    def connected(self) -> None:
        self._was_connected = self._is_connected = True
        self._failed = 0

    def failed(self) -> str:
        """It could not be connected, or was lost: why to give up; empty: not yet."""
        if self._is_connected:
            self._is_connected = False
            return "" if self._limits.reconnects else "lost, and reconnect=false"
        self._failed += 1
        limits = self._limits
        most = limits.passes if self._was_connected else limits.first_passes
        if most is None or self._failed < most:
            return ""
        return f"gave up after {self._failed} pass{'es' if self._failed > 1 else ''}"

    def begin(self) -> None:
        """Count anew."""
        self._failed = 0
