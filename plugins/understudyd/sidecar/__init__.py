"""The sidecar of one broker: exactly one master in its group, promoted fast, fenced always."""

from __future__ import annotations

__all__: list[str] = []
