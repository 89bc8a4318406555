"""What the ends of a bridge make of connections that answer late, or not at all, or end; the broker
is a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from understudy import parse
from understudy.wire.stomp import RawFrame
from understudyd.bridge.dialects import ACTIVEMQ
from understudyd.bridge.ends import stream
from understudyd.bridge.ends.amqp import AmqpSource, AmqpTarget
from understudyd.bridge.ends.connection import Connection, Hooks
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks, TargetHooks
from understudyd.bridge.ends.stomp_connection import StompConnection, StompHooks
from understudyd.bridge.ends.stomp_source import StompSource
from understudyd.bridge.ends.stream import within
from understudyd.bridge.names import Pattern
from understudyd.bridge.wire.amqp import Closed, Login, Session, SessionEvent
from understudyd.bridge.wire.methods import Method, encode_method
from understudyd.bridge.wire.reader import Confirms, Deliveries, Told

T = TypeVar("T")

CLOSED = Closed("connection", 320, "shutdown")


class Transport:
    """Answers what is written with the next lists of a script, each as one read."""

    def __init__(self, connection: Any, script: list[list[Any]]) -> None:
        self._connection = connection
        self._script = script
        self.is_aborted = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data
        if self._script and data:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._connection._dispatch, self._script.pop(0))

    def abort(self) -> None:
        self.is_aborted = True


class AmqpDialer:
    """Lets in at once."""

    def __init__(self, *script: list[SessionEvent]) -> None:
        self._script = list(script)
        self.connection: Connection

    async def dial(self, hooks: Hooks, frame_max: int = 4096) -> Connection:
        session = Session(Login("u", "p", "/"), heartbeat=0, frame_max=4096, about={})
        self.connection = Connection(parse("amqp://a").endpoints[0], session, hooks)
        self.connection._opened.set_result(None)
        self.connection._transport = Transport(self.connection, self._script)  # type: ignore
        return self.connection


class StompDialer:
    def __init__(self, *script: list[RawFrame]) -> None:
        self._script = list(script)

    async def dial(self, hooks: StompHooks, client_id: str = "") -> StompConnection:
        connection = StompConnection(parse("stomp://a").endpoints[0], b"", hooks)
        connection._opened.set_result(RawFrame("CONNECTED", {}, b""))
        connection.dialect = ACTIVEMQ
        connection._transport = Transport(connection, self._script)  # type: ignore
        return connection


def told(method: int, *arguments: Any) -> Told:
    return Told(method, 1, arguments)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def amqp_target(dialer: AmqpDialer, log: list[Any]) -> AmqpTarget:
    def note(*what: Any) -> None:
        log.append(what)

    return AmqpTarget(dialer, "", TargetHooks(note, note, note, note, note))  # type: ignore[arg-type]


# A limit


def test_within_returns_what_was_done_and_raises_what_was_raised() -> None:
    async def done() -> int:
        return 5

    async def broken() -> int:
        raise KeyError("x")

    assert run(within(9.0, done())) == 5
    with pytest.raises(KeyError):
        run(within(9.0, broken()))


def test_within_ends_what_is_late() -> None:
    ended = []

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError):
        run(within(0.0, late()))
    assert ended == [True]


def test_a_cancel_in_the_turn_of_the_limit_is_a_cancel() -> None:
    async def scenario() -> None:
        task = asyncio.ensure_future(within(0.02, asyncio.Event().wait()))
        await asyncio.sleep(0)

        def busy() -> None:
            time.sleep(0.03)  # the limit passes meanwhile
            asyncio.get_running_loop().call_soon(task.cancel)

        asyncio.get_running_loop().call_soon(busy)
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


# What follows the login


def test_a_broker_that_answers_no_more_after_the_login_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "SET_UP_TIME", 0.01)

    async def scenario() -> None:
        dialer = AmqpDialer()
        with pytest.raises(ConnectionFailed, match="after the login"):
            await amqp_target(dialer, []).open()
        assert dialer.connection._is_over
        with pytest.raises(ConnectionFailed, match="after the login"):
            await AmqpSource(AmqpDialer(), "q", "t", SourceHooks(print, print)).open(1, 4096)  # type: ignore[arg-type]
        stomp = StompSource(
            StompDialer(),  # type: ignore[arg-type]
            Pattern.parse("queue://a"),
            SourceHooks(print, print),
            prefetch=1,
        )
        with pytest.raises(ConnectionFailed, match="after the login"):
            await stomp.open(1, 0)

    run(scenario())


def test_a_target_that_ended_with_its_last_answer_is_not_open() -> None:
    async def scenario() -> None:
        log: list[Any] = []
        target = amqp_target(AmqpDialer([told(Method.CONFIRM_SELECT_OK), CLOSED]), log)
        with pytest.raises(ConnectionFailed, match="320 shutdown") as raised:
            await target.open()
        assert raised.value.closed == CLOSED
        assert log == []

    run(scenario())


def test_a_source_that_ended_with_its_last_answer_is_not_open() -> None:
    async def scenario() -> None:
        lost: list[str] = []
        source = AmqpSource(
            AmqpDialer(  # type: ignore[arg-type]
                [told(Method.BASIC_QOS_OK)], [told(Method.BASIC_CONSUME_OK, "t.1"), CLOSED]
            ),
            "q",
            "t",
            SourceHooks(print, lost.append),
        )
        with pytest.raises(ConnectionFailed, match="320 shutdown"):
            await source.open(1, 4096)
        assert lost == []

    run(scenario())


def test_a_subscription_whose_first_message_cannot_be_acknowledged_is_not_open() -> None:
    message = RawFrame("MESSAGE", {"destination": "/queue/a"}, b"")
    receipt = RawFrame("RECEIPT", {"receipt-id": "subscribe-1"}, b"")

    async def scenario() -> None:
        lost: list[str] = []
        source = StompSource(
            StompDialer([message, receipt]),  # type: ignore[arg-type]
            Pattern.parse("queue://a"),
            SourceHooks(print, lost.append),
            prefetch=1,
        )
        with pytest.raises(ConnectionFailed, match="no header ack"):
            await source.open(1, 0)
        assert lost == []

    run(scenario())


# The end of a connection


def test_whoever_waits_for_an_answer_is_told_when_the_connection_is_dropped() -> None:
    async def scenario() -> None:
        amqp = await AmqpDialer().dial(Hooks(print, print, print))
        stomp = await StompDialer().dial(StompHooks(print, print, print))
        calls = [
            asyncio.ensure_future(amqp.call(b"", Method.QUEUE_DECLARE_OK)),
            asyncio.ensure_future(stomp.call("NACK", {"id": "1"})),
        ]
        await asyncio.sleep(0)
        amqp.drop()
        stomp.drop()
        for call in calls:
            with pytest.raises(ConnectionFailed, match="the connection is closed"):
                await call

    run(scenario())


def test_an_end_that_is_closed_over_what_it_tells_tells_no_more_of_that_read() -> None:
    async def scenario() -> None:
        dialer = AmqpDialer([told(Method.CONFIRM_SELECT_OK)])
        log: list[Any] = []
        target = amqp_target(dialer, log)
        await target.open()
        goodbyes = []

        def confirmed(_: object) -> None:
            log.append("confirmed")
            goodbyes.append(target.close())

        object.__setattr__(target._hooks, "on_confirms", confirmed)
        dialer.connection._dispatch([Confirms([(1, 0, True)]), Confirms([(2, 0, True)]), CLOSED])
        assert log == ["confirmed"]
        await goodbyes[0]

        batches: list[Any] = []

        def came(items: list[Any]) -> None:
            batches.append(items)
            goodbyes.append(source.close())

        source_dialer = AmqpDialer(
            [told(Method.BASIC_QOS_OK)], [told(Method.BASIC_CONSUME_OK, "t.1")]
        )
        source = AmqpSource(source_dialer, "q", "t", SourceHooks(came, print))  # type: ignore[arg-type]
        await source.open(1, 4096)
        one = (1, 0, b"", b"\0\0", 0, b"")
        source_dialer.connection._dispatch([Deliveries([one]), Deliveries([one])])
        assert batches == [[one]]
        await goodbyes[1]

    run(scenario())


def test_a_source_that_is_to_rest_over_its_first_message_rests() -> None:
    """RabbitMQ confirms the consumer and delivers in one go; `open()` goes on after both."""

    async def scenario() -> None:
        one = (1, 0, b"", b"\0\0", 0, b"")
        dialer = AmqpDialer(
            [told(Method.BASIC_QOS_OK)],
            [told(Method.BASIC_CONSUME_OK, "t.1"), Deliveries([one])],
        )
        source = AmqpSource(dialer, "q", "t", SourceHooks(lambda _: source.rest(), print))  # type: ignore[arg-type]
        await source.open(1, 4096)
        cancel = encode_method(Method.BASIC_CANCEL, "t.1", 1)
        assert dialer.connection._transport.written.endswith(cancel)  # type: ignore[union-attr]

    run(scenario())


def test_a_congestion_is_told_of_a_connection_that_is_in_use() -> None:
    async def scenario() -> None:
        log: list[bool] = []
        connection = await AmqpDialer().dial(Hooks(print, print, log.append))
        connection.pause_writing()
        connection.pause_writing()
        connection.resume_writing()
        connection.pause_writing()
        connection.drop()
        connection.resume_writing()
        assert log == [True, False, True]

    run(scenario())
