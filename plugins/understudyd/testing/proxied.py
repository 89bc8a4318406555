"""A group of which each node reaches the lock's Redis by a network of its own: a fault proxy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from understudy.testing import FaultProxy
from understudy.testing.brokers import Redis
from understudyd.testing.estate import SidecarEstate

__all__ = ["estate_behind_proxies"]


@contextlib.contextmanager
def estate_behind_proxies(
    redis: Redis, key: str, names: str = "ab", **options: Any
) -> Iterator[tuple[SidecarEstate, Mapping[str, FaultProxy]]]:
    """The group, not started yet, and each node's proxy."""
    with contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(FaultProxy(redis.host, redis.port)) for name in names}
        estate = stack.enter_context(SidecarEstate(_uri(redis.port, key), names=names, **options))
        variable = f"UNDERSTUDY_GROUPS__{estate.group.upper()}__LOCK"
        for name, proxy in proxies.items():
            estate[name].prefix = ("env", f"{variable}={_uri(proxy.port, key)}")
        yield estate, proxies


def _uri(port: int, key: str) -> str:
    return f"redis://127.0.0.1:{port}/0?key={key}"
