"""Options that one host library has no use for: accepted, because one URI serves many programs,
and said, because nobody should wait for an effect that never comes."""

from __future__ import annotations

from collections.abc import Mapping

from understudy.core.uri import FailoverURI
from understudy.failover.notifier import logger

__all__ = ["warn_without_effect"]


def warn_without_effect(uri: FailoverURI, options: Mapping[str, str], host: str) -> None:
    """Log each of ``options`` (name -> why) that the application has set for ``host``."""
    for name, why in options.items():
        if uri.origins.get(name, "default") != "default":
            logger.warning("option %s has no effect with %s: %s", name, host, why)
