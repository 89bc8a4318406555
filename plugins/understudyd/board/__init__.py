"""The board: what the nodes of a group tell each other, beside the lock."""

from __future__ import annotations

__all__: list[str] = []
