"""The guards: two small processes that see to it that a broker never outlives its lease."""

from __future__ import annotations

__all__: list[str] = []
