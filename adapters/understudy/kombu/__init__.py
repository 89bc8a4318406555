"""The kombu adapter: ``failover:(…)`` wherever kombu or Celery takes a broker URL.

Importing it registers the transports; after ``pip install`` Celery does that by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from understudy.kombu import registration
except ModuleNotFoundError as exc:
    if exc.name != "kombu":
        raise
    raise ModuleNotFoundError(
        'understudy.kombu needs kombu: pip install "understudy[kombu]"', name="kombu"
    ) from exc

if TYPE_CHECKING:
    from understudy.kombu.logical import flush
    from understudy.kombu.transport import Transport

__all__ = ["Transport", "flush", "register"]

register = registration.register


def __getattr__(name: str) -> Any:
    # lazily: kombu loads this package while it is being imported itself
    if name == "flush":
        from understudy.kombu.logical import flush

        return flush
    if name == "Transport":
        from understudy.kombu.transport import Transport

        return Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
