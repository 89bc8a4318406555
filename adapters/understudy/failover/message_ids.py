"""The names by which a message is known again: its id, and the mark on a copy of it."""

from __future__ import annotations

import itertools
import os
import uuid

__all__ = ["ID_HEADER", "OVERHEAD", "RESEND_HEADER", "new_message_id"]

ID_HEADER = "x-understudy-id"  # where the application gave no message id of its own
RESEND_HEADER = "x-understudy-resend"

OVERHEAD = 200  # bytes that count for properties and headers; an estimate, stated in the README


class _Ids:
    """Message ids: a random prefix for each process, then a counter (1 µs instead of uuid4's 2)."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._prefix = uuid.uuid4().hex
        self._counter = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}-{next(self._counter)}"


_ids = _Ids()
new_message_id = _ids.next

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.renew)
