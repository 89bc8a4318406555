"""Store-and-forward bridges between any two brokers."""

from __future__ import annotations

__all__: list[str] = []
