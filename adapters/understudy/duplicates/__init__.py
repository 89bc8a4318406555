"""What a consumer has already processed: a bounded window of message ids, off unless it is used.

This package needs nothing but Python. `understudy.duplicates.redis` has a store that needs the
extra ``redis``, `understudy.duplicates.celery` a base class for Celery tasks.
"""

from __future__ import annotations

from understudy.duplicates.ids import message_id
from understudy.duplicates.memory import MemoryStore
from understudy.duplicates.sqlite import SQLiteStore
from understudy.duplicates.store import Store, Verdict
from understudy.duplicates.window import DuplicateWindow, Processing

__all__ = [
    "DuplicateWindow",
    "MemoryStore",
    "Processing",
    "SQLiteStore",
    "Store",
    "Verdict",
    "message_id",
]
