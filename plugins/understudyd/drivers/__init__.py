"""The drivers: how a node's broker is started, stopped and fenced."""

from __future__ import annotations

__all__: list[str] = []
