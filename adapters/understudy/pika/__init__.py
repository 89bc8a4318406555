"""The pika adapter: ``failover:(…)`` for programs written for pika."""

from __future__ import annotations

try:
    import pika as _pika
except ModuleNotFoundError as exc:
    if exc.name != "pika":
        raise
    raise ModuleNotFoundError(
        'understudy.pika needs pika: pip install "understudy[pika]"', name="pika"
    ) from exc

__all__: list[str] = []

del _pika
