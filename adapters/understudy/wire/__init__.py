"""Protocols without any I/O, which adapters and bridges share; no host library is needed."""

from __future__ import annotations

__all__: list[str] = []
