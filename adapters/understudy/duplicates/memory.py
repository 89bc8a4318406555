"""Ids in the memory of one process, for all its threads; a forked child goes on with a copy."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from understudy.duplicates.store import DEFAULT_AGE, DEFAULT_LIMIT, Verdict, check_bounds
from understudy.failover import forking

__all__ = ["MemoryStore"]


class MemoryStore:
    def __init__(
        self,
        *,
        limit: int | None = DEFAULT_LIMIT,
        age: float | None = DEFAULT_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember at most ``limit`` ids, for at most ``age`` seconds; None = no such bound."""
        check_bounds(limit, age)
        self._limit = limit
        self._age = age
        self._clock = clock
        self._lock = threading.Lock()
        self._done: OrderedDict[str, float] = OrderedDict()  # when; oldest first
        self._claims: OrderedDict[str, tuple[str, float]] = OrderedDict()  # whose, until when
        forking.register(self)

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._done)} done, {len(self._claims)} claimed>"

    def claim(self, key: str, owner: str, lease: float, *, take_over: bool = False) -> Verdict:
        with self._lock:
            now = self._clock()
            self._forget(now)
            if key in self._done:
                return Verdict.DONE
            holder, until = self._claims.get(key, (owner, now))
            if holder != owner and until > now and not take_over:
                return Verdict.BUSY
            self._claims[key] = (owner, now + lease)
            self._claims.move_to_end(key)
            return Verdict.CLAIMED

    def done(self, key: str, owner: str) -> None:
        with self._lock:
            now = self._clock()
            self._claims.pop(key, None)
            self._done[key] = now
            self._done.move_to_end(key)
            self._forget(now)

    def release(self, key: str, owner: str) -> None:
        with self._lock:
            if self._claims.get(key, ("", 0.0))[0] == owner:
                del self._claims[key]

    def is_done(self, key: str) -> bool:
        with self._lock:
            self._forget(self._clock())
            return key in self._done

    def close(self) -> None:
        """Nothing to let go of."""

    def _forget(self, now: float) -> None:
        done = self._done
        while self._limit is not None and len(done) > self._limit:
            done.popitem(last=False)
        while self._age is not None and done and next(iter(done.values())) <= now - self._age:
            done.popitem(last=False)
        claims = self._claims  # the oldest first; one with a longer lease holds up the next ones
        while claims and next(iter(claims.values()))[1] <= now:
            claims.popitem(last=False)

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._lock.acquire()

    def let_go(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        self._lock = threading.Lock()
        self._claims.clear()  # the parent's work
