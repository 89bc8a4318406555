"""All drivers: the columns of the table."""

from __future__ import annotations

from understudy.testing.scenarios.kombu_driver import KombuDriver
from understudy.testing.scenarios.port import Driver

__all__ = ["DRIVERS"]

DRIVERS: tuple[Driver, ...] = (KombuDriver(),)
