"""Makes ``failover:`` a kombu transport wherever Celery is used, after ``pip install`` alone.

kombu has no entry points for transports, but it loads every module of the group
``kombu.serializers`` when it is imported. An error here would break ``import kombu`` for a whole
environment, so this module imports nothing but two modules of kombu's own, and the "serializer"
that it has to hand over is one that refuses to work.

kombu and Celery mask a URL with `kombu.utils.url.sanitize_url`, which would take our list for one
host and show the passwords in it; it is told about our schemes here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from kombu.transport import TRANSPORT_ALIASES
from kombu.utils import url as urls

__all__ = ["SCHEMES", "register", "serializer"]

SCHEMES = ("failover", "static", "masterslave", "fanout", "discovery")


def register() -> None:
    """Add the schemes to kombu's table of transports; a second call changes nothing."""
    for scheme in SCHEMES:
        TRANSPORT_ALIASES.setdefault(scheme, "understudy.kombu.transport:Transport")
    plain = getattr(urls, "sanitize_url", None)  # which `maybe_sanitize_url` calls by this name too
    if plain is not None and not hasattr(plain, "knows_understudy"):
        urls.sanitize_url = _knowing_our_schemes(plain)


def _knowing_our_schemes(plain: Callable[..., Any]) -> Callable[..., Any]:
    def sanitize_url(url: str, mask: str = "**") -> Any:
        if url.partition(":")[0].lower() not in SCHEMES:
            return plain(url, mask)
        from understudy.core.redact import redact

        return redact(url).replace(":**@", f":{mask}@")

    sanitize_url.knows_understudy = True  # type: ignore[attr-defined]
    return sanitize_url


def refuse(_: Any) -> NoReturn:
    raise NotImplementedError("understudy registers a kombu transport here, not a serializer")


register()

serializer = (refuse, refuse, "application/x-understudy-none", "binary")
