"""The stomp.py adapter: ``failover:(…)`` for programs written for stomp.py."""

from __future__ import annotations

try:
    import stomp as _stomp
except ModuleNotFoundError as exc:
    if exc.name != "stomp":
        raise
    raise ModuleNotFoundError(
        'understudy.stomp needs stomp.py: pip install "understudy[stomp]"', name="stomp"
    ) from exc

__all__: list[str] = []

del _stomp
