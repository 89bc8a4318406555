"""Flushing several channels of one AsyncConnection."""

from __future__ import annotations

import asyncio
import threading

import pytest

from understudy import MessageFailed
from understudy.pika import AsyncConnection, Nacked
from understudy.testing.amqp_peer import Answer, PeerConnection, PeerMessage, ScriptedPeer
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import Told

pytestmark = pytest.mark.integration


def test_a_refusal_on_one_channel_gives_up_nothing_on_another() -> None:
    may_confirm = threading.Event()
    told = Told()

    def on_publish(connection: PeerConnection, nth: int, message: PeerMessage) -> Answer:
        if nth == 1:
            return "nack"
        may_confirm.wait(60)
        return "ack"

    async def main(peer: ScriptedPeer) -> None:
        uri = f"failover:(amqp://{peer.host}:{peer.port})?timeout=60000&trackMessages=true"
        connection = AsyncConnection(uri, on_event=told.add)
        await connection.connect()
        first, second = await connection.channel(), await connection.channel()
        await first.basic_publish("", "q", b"refused")
        await second.basic_publish("", "q", b"late")
        closing = asyncio.ensure_future(connection.close())
        try:
            ended, _ = await asyncio.wait({closing}, timeout=0.5)
        finally:
            may_confirm.set()
        assert not ended
        with pytest.raises(Nacked):
            await closing

    with ScriptedPeer(on_publish=on_publish) as peer:
        run_clean(main(peer))
    assert sum(isinstance(event, MessageFailed) for event in told.all) == 1
