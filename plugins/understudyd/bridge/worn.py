"""Messages that were given back so often that their queue would soon put them away. No I/O.

Rule: a quorum queue of RabbitMQ counts how often a message was delivered in vain, and drops it, or
puts it where dead letters go, after its delivery limit (20 from 4.0 on, where nothing else is
said). It tells the count with each delivery, and the limit nowhere. One that was delivered in vain
half as often is published to the tail of its queue and settled when that is confirmed: its count
begins anew, and whatever keeps it from being settled, it is not put away for that. A bridge that
dies meanwhile has as many again.
"""

from __future__ import annotations

from typing import Final

from understudyd.bridge.content import AmqpContent, Content
from understudyd.bridge.wire.properties import get_header, remove_header
from understudyd.bridge.wire.tables import Typed

__all__ = ["COUNT", "USUAL_LIMIT", "fresh", "is_worn", "is_worn_content", "most_of"]

COUNT: Final = "x-delivery-count"
USUAL_LIMIT: Final = 20

_COUNT: Final = COUNT.encode()


def most_of(limit: int) -> int:
    """How often a message may be delivered in vain, of a queue with this delivery limit."""
    return max(1, limit // 2)


def is_worn(raw: bytes, most: int) -> bool:
    """Of the properties of a delivery; raises ValueError for some that cannot be read."""
    if _COUNT not in raw:
        return False
    told = get_header(raw, COUNT)
    count = told.value if isinstance(told, Typed) else told  # RabbitMQ says it as a long
    return isinstance(count, int) and count >= most


def is_worn_content(content: Content, most: int) -> bool:
    """The same of a delivery of either protocol."""
    if isinstance(content, AmqpContent):
        return is_worn(content.properties, most)
    count = content.headers.get(COUNT, "")
    return count.isdecimal() and int(count) >= most


def fresh(raw: bytes) -> bytes:
    """The same properties without the count, which is of the queue that told it."""
    return remove_header(raw, COUNT) if _COUNT in raw else raw
