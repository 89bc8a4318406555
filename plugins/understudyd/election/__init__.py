"""The election: who may campaign, and how much later than the best candidate."""

from __future__ import annotations

__all__: list[str] = []
