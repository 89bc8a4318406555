"""From a lock's URI to its backend."""

from __future__ import annotations

from understudyd.lock.port import LockBackend

__all__ = ["open_backend"]


def open_backend(uri: str, group: str, attempt: float) -> LockBackend:
    """The backend of this URI; nothing is connected yet.

    ``attempt``: seconds that one attempt to reach it may take. Raises ConfigurationError for a
    scheme that is not known, and for what the backend itself refuses.
    """
    raise NotImplementedError
