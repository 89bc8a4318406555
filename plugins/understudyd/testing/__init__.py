"""For tests of the broker side: a broker's stand-in that bears witness, and groups to break."""

from __future__ import annotations

__all__: list[str] = []
