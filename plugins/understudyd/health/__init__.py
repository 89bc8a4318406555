"""Health checks: whether a broker answers, and how it was asked."""

from __future__ import annotations

__all__: list[str] = []
