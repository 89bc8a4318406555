"""Counts in words for people. No I/O."""

from __future__ import annotations

__all__ = ["messages"]


def messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
