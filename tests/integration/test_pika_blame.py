"""A message over which brokers close the connection is found, however busy the connection is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika
import pytest

from understudy import errors
from understudy.pika import AsyncConnection, TransactionRolledBack
from understudy.testing import ScriptedPeer, wait_until
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import uri

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration

Connect = Callable[..., Any]
POISON = pika.BasicProperties(message_id="poison")
SLOW = 0.003  # s for one answer: with several on their way nobody is ever alone by chance


def fastidious(peer: Any, nth: int, message: Any) -> Any:
    """A broker that takes its time, and closes the connection over one message."""
    time.sleep(SLOW)
    return ("close_connection", 501) if message.body == b"poison" else "ack"


class Crowd:
    """Threads that keep a connection busy, each with its own channel, and note what they get."""

    def __init__(self, connection: Any, lab: Lab) -> None:
        self._is_over = threading.Event()
        self.sent: list[str] = []
        channels = [connection.channel() for _ in range(5)]
        calls = [self._publish, self._publish, self._publish, self._declare, self._get]
        self._running = [
            lab.background(lambda call=call, channel=channel: self._work(call, channel))  # type: ignore[misc]
            for call, channel in zip(calls, channels, strict=True)
        ]
        assert wait_until(lambda: len(self.sent) > 5)

    def _work(self, call: Callable[[Any, str], None], channel: Any) -> None:
        number = 0
        while not self._is_over.is_set():
            call(channel, f"{channel.channel_number}.{number}")
            number += 1

    def _publish(self, channel: Any, name: str) -> None:
        channel.basic_publish("", "q", name)
        self.sent.append(name)

    def _declare(self, channel: Any, name: str) -> None:
        channel.queue_declare("q")

    def _get(self, channel: Any, name: str) -> None:
        channel.basic_get("q")

    def leave(self) -> None:
        """Raises what any of them got."""
        self._is_over.set()
        for one in self._running:
            one.join()


def bodies(peer: ScriptedPeer) -> set[str]:
    return {message.body.decode() for message in peer.messages}


def test_f51_poison_among_the_calls_of_other_threads(lab: Lab, connect: Connect) -> None:
    """One close with all of them, two with the culprit alone; nobody else hears of it."""
    peer = lab.peer(on_publish=fastidious)
    connection = connect(peer, initialReconnectDelay=0)
    channel = connection.channel()
    crowd = Crowd(connection, lab)
    for _ in range(3):
        with pytest.raises(errors.Refused, match=r"message poison was refused.*501"):
            channel.basic_publish("", "q", b"poison", POISON)
    crowd.leave()
    assert peer.accepted <= 1 + 3 * 3
    assert bodies(peer) == {"poison", *crowd.sent}


def test_f51_tracked_poison_among_the_calls_of_other_threads(
    lab: Lab, connect: Connect, events: Events
) -> None:
    """The outbox is one party among the others; what it holds besides arrives."""
    peer = lab.peer(on_publish=fastidious)
    options = {"initialReconnectDelay": 0, "trackMessages": "true"}
    connection = connect(peer, on_event=events.add, **options)
    channel = connection.channel()
    crowd = Crowd(connection, lab)
    for number in range(10):
        channel.basic_publish("", "q", f"before {number}")
    channel.basic_publish("", "q", b"poison", POISON)
    for number in range(10):
        channel.basic_publish("", "q", f"after {number}")
    assert wait_until(lambda: events.count("MessageFailed") == 1)
    crowd.leave()
    with pytest.raises(errors.Refused, match=r"message poison was refused.*501"):
        connection.flush(60)
    assert connection.flush(60)
    own = {f"{when} {number}" for when in ("before", "after") for number in range(10)}
    assert bodies(peer) == {"poison", *own, *crowd.sent}


def test_f51_poison_in_a_transaction_costs_one_connection(lab: Lab, connect: Connect) -> None:
    """It is not replayed, or each new connection would be closed over it as well."""
    peer = lab.peer(on_publish=fastidious)
    connection = connect(peer, initialReconnectDelay=0)
    channel = connection.channel()
    channel.tx_select()
    crowd = Crowd(connection, lab)
    channel.basic_publish("", "q", b"poison", POISON)
    assert wait_until(lambda: peer.accepted == 2)
    with pytest.raises(TransactionRolledBack, match="over an error") as caught:
        channel.tx_commit()
    assert caught.value.message_ids == ("poison",)
    channel.basic_publish("", "q", b"good")
    channel.tx_commit()
    crowd.leave()
    assert peer.accepted == 2
    assert bodies(peer) == {"poison", "good", *crowd.sent}


@pytest.mark.parametrize("tracks", ["false", "true"])
def test_f51_poison_among_the_calls_of_other_coroutines(tracks: str) -> None:
    """The same with AsyncConnection, where each channel is a party, and each request."""
    sent: list[str] = []

    async def crowd(channel: Any) -> None:
        for number in range(1_000_000):
            name = f"{channel.number}.{number}"
            if channel.number % 2:
                await channel.basic_publish("", "q", name)
                sent.append(name)
            else:
                await channel.queue_declare("q")
            await asyncio.sleep(0.001)

    async def send_poison(channel: Any) -> None:
        await channel.basic_publish("", "q", b"poison", POISON)
        await channel.flush(60)

    async def main(peer: ScriptedPeer) -> None:
        where = uri(peer, initialReconnectDelay=0, trackMessages=tracks)
        async with AsyncConnection(where) as connection:
            channel = await connection.channel()
            channels = [await connection.channel() for _ in range(6)]
            tasks = [asyncio.create_task(crowd(one)) for one in channels]
            while len(sent) < 10:
                await asyncio.sleep(0.001)
            sending = send_poison(channel)
            with pytest.raises(errors.Refused, match=r"message poison was refused.*501"):
                await sending
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert await connection.flush(60)
        assert peer.accepted <= 1 + 3

    with ScriptedPeer(on_publish=fastidious) as peer:
        run_clean(main(peer), 120)
        assert bodies(peer) >= {"poison", *sent}
