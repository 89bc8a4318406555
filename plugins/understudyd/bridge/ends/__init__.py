"""The two ends of a link: what connects, reads and writes."""

from __future__ import annotations

__all__: list[str] = []
