"""A message in another form, in one step."""

from __future__ import annotations

from collections.abc import Callable

from understudyd.bridge.content import Content
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.mapping import Message, read, write

__all__ = ["translate"]


def translate(
    content: Content,
    source: Dialect,
    target: Dialect,
    now: int,
    change: Callable[[Message], None] | None = None,
) -> Content:
    """The message as the target's broker takes it; ``now`` is milliseconds since 1970.

    ``change`` may alter it on the way: its path, headers that a route sets. Raises Untranslatable
    or Expired.
    """
    message = read(content, source, now)
    if change is not None:
        change(message)
    return write(message, target, now)
