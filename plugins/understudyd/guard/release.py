"""Let a dead control's lock go, by the token of its reign."""

from __future__ import annotations

import time
from dataclasses import replace

from understudyd.clock import now
from understudyd.guard.words import Lock
from understudyd.lock.open import open_backend
from understudyd.lock.port import Hasty, Inheritable, LockBackend, Unavailable
from understudyd.lock.record import LockRecord, RecordError

__all__ = ["release"]

TRIES = 4  # in the time of one attempt, where the lock's store can't be reached


def release(lock: Lock, token: int, descriptor: int | None, until: float) -> bool:
    """Write the tombstone of a reign whose broker is provably dead; whether it was written.

    Tries until ``until`` (CLOCK_BOOTTIME), and at least once; gives up at once where the record is
    not ours any more. The descriptor is the lock's, and closed in any case.
    """
    backend = open_backend(lock.uri, lock.group, lock.attempt)
    if descriptor is not None:
        if isinstance(backend, Inheritable):
            backend.adopt(descriptor)
        else:
            raise TypeError(f"a {type(backend).__name__} has no descriptor")
    if isinstance(backend, Hasty):
        backend.hurry()
    try:
        while True:
            done = _try(backend, lock, token)
            if done is not None:
                return done
            if now() >= until:
                return False
            time.sleep(lock.attempt / TRIES)
    finally:
        backend.close()


def _try(backend: LockBackend, lock: Lock, token: int) -> bool | None:
    """None: unknown, or just changed; worth another try."""
    try:
        seen = backend.read()
        record = seen.record
        if record is None or not _is_ours(record, lock, token):
            return False
        if record.incarnation != seen.incarnation:
            return False  # gone back to older data, perhaps: no tombstone where nothing is known
        tombstone = replace(
            record, sequence=record.sequence + 1, released=True, cause="its sidecar died"
        )
        if backend.swap(seen, tombstone).record == tombstone:
            return True
    except Unavailable:
        pass
    except RecordError:
        return False
    return None


def _is_ours(record: LockRecord, lock: Lock, token: int) -> bool:
    return (record.token, record.instance, record.released) == (token, lock.instance, False)
