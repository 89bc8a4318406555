"""The HTTP API of bridges: a process of its own, which answers from a page that it shares."""

from __future__ import annotations

__all__: list[str] = []
