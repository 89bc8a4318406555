"""Makes ``failover:`` a kombu transport wherever Celery is used, after ``pip install`` alone.

kombu has no entry points for transports, but it loads every module of the group
``kombu.serializers`` when it is imported. An error here would break ``import kombu`` for a whole
environment, so this module imports nothing but kombu's own alias table, and the "serializer" that
it has to hand over is one that refuses to work.
"""

from __future__ import annotations

from typing import Any, NoReturn

from kombu.transport import TRANSPORT_ALIASES

__all__ = ["SCHEMES", "register", "serializer"]

SCHEMES = ("failover", "static", "masterslave", "fanout", "discovery")


def register() -> None:
    """Add the schemes to kombu's table of transports; a second call changes nothing."""
    for scheme in SCHEMES:
        TRANSPORT_ALIASES.setdefault(scheme, "understudy.kombu.transport:Transport")


def refuse(_: Any) -> NoReturn:
    raise NotImplementedError("understudy registers a kombu transport here, not a serializer")


register()

serializer = (refuse, refuse, "application/x-understudy-none", "binary")
