"""What a bridge that changed leaves at its brokers: subscriptions that nobody reads. No I/O.

Rule: a topic is read by a durable queue or subscription, which keeps what comes while nobody reads.
So one that a bridge gave up fills its broker; to remove it is left to people, as messages wait in
it.
"""

from __future__ import annotations

from understudyd.bridge.names import Pattern
from understudyd.bridge.queues import durable_name
from understudyd.config.bridges import BridgeConfig
from understudyd.config.model import Secret

__all__ = ["left_behind"]


def left_behind(before: BridgeConfig, after: BridgeConfig | None) -> list[str]:
    """What was subscribed and is not any more, each as its name and its broker, for people;
    ``after`` is None where the bridge is gone."""
    kept = _subscriptions(after) if after is not None else {}
    return [
        f"{name} at {end}"
        for (place, name), end in _subscriptions(before).items()
        if (place, name) not in kept
    ]


def _subscriptions(bridge: BridgeConfig) -> dict[tuple[str, str], Secret]:
    """By broker and name."""
    ends = (bridge.source, bridge.target) if bridge.duplex else (bridge.source,)
    patterns = map(Pattern.parse, bridge.statically_included)
    names = [name for pattern in patterns if (name := durable_name(bridge.name, pattern))]
    return {(end.reveal(), name): end for end in ends for name in names}
