"""Brokers that close the connection over what is no message: only who asked for it hears of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pika import exceptions

from understudy.pika import AsyncConnection, requests
from understudy.pika import connection as connection_module
from understudy.testing import ScriptedPeer, wait_until
from understudy.testing.clean_loop import run_clean
from understudy.testing.pika_async_lab import uri

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

pytestmark = pytest.mark.integration

Connect = Callable[..., Any]
Method = tuple[int, int]
OPEN: Method = (20, 10)
DECLARE: Method = (50, 10)
UPDATE_SECRET: Method = (10, 70)
AT_ONCE = {"initialReconnectDelay": 0}
REFUSED = r"530, 'scripted connection error'"


class Strict:
    """A broker that closes the connection over one method, and confirms nothing before ``patient``
    of these closes: so there is always a message that may be taken for the reason."""

    def __init__(self, refused: Method, *, after: int = 0, patient: int = 1) -> None:
        self.after = after  # of these methods are taken, on each connection
        self.closes = 0
        self._refused = refused
        self._patient = patient

    def on_method(self, connection: Any, channel: int, method: Method) -> bool:
        taken = sum(one == self._refused for _, one in connection.methods) - 1
        if method != self._refused or taken < self.after:
            return False
        self.closes += 1
        connection.close_connection(530, method)
        return True

    def on_publish(self, connection: Any, nth: int, message: Any) -> str:
        return "ack" if self.closes >= self._patient else "ignore"

    @property
    def script(self) -> dict[str, Any]:
        return {"on_method": self.on_method, "on_publish": self.on_publish}


def test_f51_a_channel_that_no_broker_opens(lab: Lab, connect: Connect) -> None:
    """RabbitMQ's max-channels of a user: 530. The message beside it is sent, and the channels that
    were open come back without the one that never was."""
    strict = Strict(OPEN, after=1)
    peer = lab.peer(**strict.script)
    connection = connect(peer, **AT_ONCE)
    channel = connection.channel()
    sending = lab.background(lambda: channel.basic_publish("", "q", b"innocent"))
    assert wait_until(lambda: bool(peer.messages))
    with pytest.raises(exceptions.ConnectionClosedByBroker, match=REFUSED):
        connection.channel()
    sending.join()
    channel.basic_publish("", "q", b"after")
    assert strict.closes == 3
    peer.history[-1].reset()
    channel.basic_publish("", "q", b"and after a loss")
    assert strict.closes == 3


def test_f51_a_channel_that_no_broker_opens_with_asyncio() -> None:
    strict = Strict(OPEN, after=1)

    async def main(peer: ScriptedPeer) -> None:
        async with AsyncConnection(uri(peer, **AT_ONCE)) as connection:
            channel = await connection.channel()
            sending = asyncio.create_task(channel.basic_publish("", "q", b"innocent"))
            while not peer.messages:
                await asyncio.sleep(0.001)
            with pytest.raises(exceptions.ConnectionClosedByBroker, match=REFUSED):
                await connection.channel()
            await sending
            await channel.basic_publish("", "q", b"after")
            assert strict.closes == 3
            peer.history[-1].reset()
            await channel.basic_publish("", "q", b"and after a loss")
            assert strict.closes == 3

    with ScriptedPeer(**strict.script) as peer:
        run_clean(main(peer))


def test_f51_a_channel_for_tracked_messages_that_no_broker_opens(
    lab: Lab, connect: Connect
) -> None:
    """The messages in the outbox are not refused for it; they go when it can be opened."""
    strict = Strict(OPEN, after=1, patient=0)
    peer = lab.peer(**strict.script)
    connection = connect(peer, trackMessages="true", **AT_ONCE)
    channel = connection.channel()
    for number in range(3):
        channel.basic_publish("", "q", str(number), pika.BasicProperties(message_id=str(number)))
    for _ in range(3):
        with pytest.raises(exceptions.ConnectionClosedByBroker, match=REFUSED):
            connection.flush(30)
    strict.after = 2
    assert connection.flush(30)
    assert [message.body for message in peer.messages[-3:]] == [b"0", b"1", b"2"]


def test_f51_a_secret_that_the_broker_refuses() -> None:
    """The message that is in flight beside it is no reason for that."""
    strict = Strict(UPDATE_SECRET, patient=3)

    async def main(peer: ScriptedPeer) -> None:
        async with AsyncConnection(uri(peer, **AT_ONCE)) as connection:
            channel = await connection.channel()
            sending = asyncio.create_task(channel.basic_publish("", "q", b"innocent"))
            while not peer.messages:
                await asyncio.sleep(0.001)
            with pytest.raises(exceptions.ConnectionClosedByBroker, match=REFUSED):
                await connection.update_secret("new", "due")
            await sending
            assert strict.closes == 3

    with ScriptedPeer(**strict.script) as peer:
        run_clean(main(peer))


def test_f51_an_innocent_outbox_is_tried_in_one_go(lab: Lab, connect: Connect) -> None:
    """Else all others would wait for as many confirms, one after the other, as it has messages."""
    count = 50
    strict = Strict(UPDATE_SECRET)
    came: dict[Any, int] = {}

    def once_all_are_there(peer_connection: Any, nth: int, message: Any) -> str:
        came[peer_connection] = came.get(peer_connection, 0) + 1
        return "ack_multiple" if strict.closes and came[peer_connection] == count else "ignore"

    peer = lab.peer(on_method=strict.on_method, on_publish=once_all_are_there)
    connection = connect(peer, trackMessages="true", **AT_ONCE)
    channel = connection.channel()
    for _ in range(count):
        channel.basic_publish("", "q", b"innocent")
    assert wait_until(lambda: len(peer.messages) == count)
    with pytest.raises(exceptions.ConnectionClosedByBroker, match=REFUSED):
        connection.update_secret("new", "due")
    assert connection.flush(30)


def test_a_call_that_a_signal_handler_ends_leaves_nobody_waiting(
    lab: Lab, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises where the call would say that its turn as a suspect is over."""
    connection = connect(lab.peer(), **AT_ONCE)
    first, second = connection.channel(), connection.channel()
    session = connection._session
    session.suspects.began(threading.get_ident())
    session.suspects.lost(accused=True)

    def interrupted(*party: object) -> None:
        monkeypatch.undo()
        raise InterruptedError("of a signal handler")

    monkeypatch.setattr(session, "end", interrupted)
    with pytest.raises(InterruptedError):
        first.basic_publish("", "q", b"x")
    lab.background(lambda: second.basic_publish("", "q", b"y")).join()
    assert not session.suspects


def test_a_broker_that_closes_the_connection_over_what_is_restored(
    lab: Lab, connect: Connect
) -> None:
    """Where no other one restores it, whoever waits is told."""
    strict = Strict(DECLARE, after=1)
    peer = lab.peer(**strict.script)
    connection = connect(peer, **AT_ONCE)
    channel = connection.channel()
    channel.queue_declare("q")
    strict.after = 0
    peer.history[-1].reset()
    with pytest.raises(exceptions.ConnectionClosedByBroker, match=REFUSED):
        channel.queue_declare("q", passive=True)


def test_a_broker_that_closes_the_connection_over_what_is_restored_with_asyncio() -> None:
    strict = Strict(DECLARE, after=1)

    async def main(peer: ScriptedPeer) -> None:
        async with AsyncConnection(uri(peer, **AT_ONCE)) as connection:
            channel = await connection.channel()
            await channel.queue_declare("q")
            strict.after = 0
            peer.history[-1].reset()
            with pytest.raises(exceptions.ConnectionClosedByBroker, match=REFUSED):
                await channel.basic_publish("", "q", b"x")

    with ScriptedPeer(**strict.script) as peer:
        run_clean(main(peer))


def test_a_secret_belongs_to_the_login_that_was_asked(
    lab: Lab, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time the caller goes on, that connection may be over."""

    def take(connection: Any, channel: int, method: Method) -> bool:
        if method != UPDATE_SECRET:
            return False
        connection.wire.send_method(0, (10, 71))
        return True

    def answered_and_lost(session: Any, *arguments: Any) -> Any:
        answer = requests.answered(session, *arguments)
        session.leave_because("a test")
        return answer

    connection = connect(lab.peer(on_method=take), **AT_ONCE)
    monkeypatch.setattr(connection_module, "answered", answered_and_lost)
    connection.update_secret("new", "due")
    assert connection._dialer.secrets == {"guest": "new"}


def test_closing_an_async_connection_that_is_blocked_tells_that_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []

    async def main(peer: ScriptedPeer) -> None:
        async with AsyncConnection(uri(peer)) as connection:
            connection.add_on_connection_blocked_callback(lambda *_: told.append("blocked"))
            connection.add_on_connection_unblocked_callback(lambda *_: told.append("unblocked"))
            peer.history[-1].tell_blocked("memory")
            while not told:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    with ScriptedPeer() as peer:
        run_clean(main(peer))
    assert told == ["blocked", "unblocked"]
    assert "a bug in understudy" not in caplog.text


def test_a_channel_whose_wire_ends_as_it_opens_is_opened_once_on_the_next() -> None:
    """It comes with that wire already; a second channel.open is an error to a broker (504)."""

    def open_and_leave(connection: Any, channel: int, method: Method) -> bool:
        if method != OPEN or peer.accepted > 1:
            return False
        connection.wire.send_method(channel, (20, 11), bytes(4))
        connection.fin()
        return True

    async def main() -> None:
        async with AsyncConnection(uri(peer, **AT_ONCE)) as connection:
            channel = await connection.channel()
            await channel.queue_declare("q")
        assert peer.history[1].methods.count((channel.number, OPEN)) == 1

    with ScriptedPeer(on_method=open_and_leave) as peer:
        run_clean(main())
