"""Which subscriptions a reload leaves to people to remove."""

from __future__ import annotations

from typing import Any

import pytest

from understudyd.bridge.leftovers import left_behind
from understudyd.config.bridges import BridgeConfig
from understudyd.config.model import Secret

A, B = Secret("amqp://u:pw@a", "amqp://u:**@a"), Secret("amqp://b", "amqp://b")
AT_A = "understudy.bridge.b.topic://x at amqp://u:**@a"
AT_B = "understudy.bridge.b.topic://x at amqp://b"


def config(*included: str, source: Secret = A, target: Secret = B, **options: Any) -> BridgeConfig:
    return BridgeConfig("b", source, target, included, **options)


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (config("topic://x", "topic://y"), config("topic://y"), [AT_A]),
        (config("topic://x"), config("topic://x", prefetch_size=5), []),
        (config("topic://x"), config("topic://x", source=B, target=A), [AT_A]),
        (config("topic://x", duplex=True), config("topic://x"), [AT_B]),
        (config("topic://x", duplex=True), None, [AT_A, AT_B]),
        (config("queue://x"), None, []),
    ],
)
def test_what_nobody_reads_any_more_is_named(
    before: BridgeConfig, after: BridgeConfig | None, left: list[str]
) -> None:
    assert left_behind(before, after) == left
