"""The lock of a master/slave group: the port, its backends, and the keeper that holds a lease."""

from __future__ import annotations

__all__: list[str] = []
