"""What the two sides of tracked publishing share: the callers put it there, the sender sends it."""

from __future__ import annotations

import threading
from collections import deque

from understudy import errors
from understudy.core.outbox import Outbox
from understudy.failover.waiters import Waiters
from understudy.kombu.message import Publication

__all__ = ["Pending"]

FAILURES = 1000  # refusals kept for a flush that may never come; each was told as an event


class Pending:
    """Messages that no broker has confirmed yet, and what went wrong; all of it under `lock`."""

    def __init__(self, max_bytes: int) -> None:
        self.lock = threading.RLock()  # a signal handler may flush; entered itself, see supervisor
        self.outbox: Outbox[Publication] = Outbox(max_bytes)
        self.waiters = Waiters()  # callers that wait for something to leave the outbox
        self.failures: deque[errors.UnderstudyError] = deque(maxlen=FAILURES)  # for flush
        self.given_up: errors.ConnectFailed | None = None
