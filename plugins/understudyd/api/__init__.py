"""The role API: a process of its own, which answers from a page that it shares with the sidecar."""

from __future__ import annotations

__all__: list[str] = []
