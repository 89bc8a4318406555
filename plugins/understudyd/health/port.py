"""The health port: one question to a broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Health", "HealthCheck"]


@dataclass(frozen=True)
class Health:
    ok: bool
    detail: str  # what answered, or what went wrong; without secrets


class HealthCheck(Protocol):
    def check(self, timeout: float) -> Health:
        """Ask the broker; blocks at most for about ``timeout`` seconds. Raises nothing."""
