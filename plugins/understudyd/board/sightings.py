"""How old what a store shows is, by the reader's own clock. Pure.

Stores tell ages by clocks of other machines, which may be wrong and may be set. So only what is
there at the first look has the age that the store tells; what changes later is as old as the time
since it was seen to change.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Sightings"]


class Sightings:
    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] | None = None

    def ages(self, shown: Mapping[str, tuple[object, float]], now: float) -> dict[str, float]:
        """Ages in seconds, of names with what changes whenever they do, and the age told."""
        is_first = self._seen is None
        known = self._seen or {}
        self._seen = {}
        for name, (version, told) in shown.items():
            if name in known and known[name][0] == version:
                self._seen[name] = known[name]
            else:
                self._seen[name] = version, now - max(0.0, told) if is_first else now
        return {name: round(now - since, 3) for name, (_, since) in self._seen.items()}
