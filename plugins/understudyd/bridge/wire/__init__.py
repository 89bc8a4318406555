"""AMQP 0-9-1 on the wire, without any I/O."""

from __future__ import annotations

__all__: list[str] = []
