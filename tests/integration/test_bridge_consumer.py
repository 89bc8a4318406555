"""A source of AMQP whose window is changed faster than RabbitMQ confirms its consumers."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from understudy.testing.brokers import RabbitMQ
from understudyd.bridge.ends.amqp import AmqpSource
from understudyd.bridge.ends.endpoints import FRAME_MAX, Dialer
from understudyd.bridge.ends.port import SourceHooks
from understudyd.testing.sides import AmqpSide

pytestmark = pytest.mark.integration

PATIENCE = 30.0  # s


def test_a_consumer_is_not_cancelled_before_it_is_confirmed(
    rabbit_a: RabbitMQ, unique: str
) -> None:
    """RabbitMQ 3.10 would end the channel: 541 INTERNAL_ERROR."""
    side = AmqpSide(rabbit_a)
    side.make(unique)

    async def scenario() -> None:
        came: list[Any] = []
        lost: list[str] = []
        dialer = Dialer(rabbit_a.uri, {}, Random(1))
        source = AmqpSource(dialer, unique, "test", SourceHooks(came.extend, lost.append))
        await source.open(1, FRAME_MAX)
        for window in range(2, 40):
            source.widen(window)
            source.rest()
            assert await source.ready() == 0
        source.widen(50)
        await asyncio.get_running_loop().run_in_executor(None, side.fill, unique, [b"x"] * 50)

        async def all_came() -> None:
            while len(came) < 50 and not lost:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(all_came(), PATIENCE)
        assert lost == []
        source.acknowledge(came[-1][0])
        await source.close()

    asyncio.run(scenario())
    side.remove(unique)
