"""Where candidate endpoints come from, beside those that the URI lists."""

from __future__ import annotations

__all__: list[str] = []
