"""Which messages wait for an address, in which order they go on, and what ends the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from understudy import parse
from understudyd.bridge import replies_shell
from understudyd.bridge.dialects import ACTIVEMQ, RABBITMQ_AMQP
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.joints import Span, dialer_of
from understudyd.bridge.names import Pattern
from understudyd.bridge.replies import NoReplies, ReplyBook, Requester
from understudyd.bridge.replies_runner import ReplyRunner
from understudyd.bridge.replies_shell import Replies
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.wire.bodies import body_frames
from understudyd.bridge.wire.properties import build
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.words import State


class Link:
    state = State.RUNNING
    reason = "because"
    forwarded = dropped = expired = parked = 0


class Runner:
    """What makes addresses when it is let, or fails."""

    name = "b"
    is_worn = False
    places = (None, None)

    def __init__(self) -> None:
        self.link = Link()
        self.told: list[str] = []
        self.may = asyncio.Event()
        self.trouble: Exception | None = None
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self, requester: Requester) -> None:
        self.told.append(f"serve {requester.reply_to}")
        await self.may.wait()
        if self.trouble is not None:
            raise self.trouble
        requester.address = f"for {requester.reply_to}"

    def retire(self, on_lost: Callable[[str], None] | None = None) -> None:
        self.told.append("retire")
        self.on_lost = on_lost

    def look(self) -> None:
        self.link.dropped = 3

    def release(self, requester: Requester) -> None:
        self.told.append(f"release {requester.reply_to}")

    def wake(self) -> None:
        self.link.state = State.RUNNING

    def pause(self, reason: str, *, at_once: bool = True) -> None:
        self.told.append(f"pause {reason}")
        self.link.state = State.PAUSED

    def stop(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


class Bench:
    def __init__(self, ttl: float = 300.0) -> None:
        rng = Random(1)
        here, there = dialer_of("amqp://127.0.0.1:1", {}, rng), dialer_of("amqp://h:2", {}, rng)
        routes, pattern = Routes(Options(), "here", "there"), Pattern.parse("queue://a")
        self.replies = Replies(Span("b", here, pattern, there, routes), ttl=ttl, rng=rng)
        self.runner = Runner()
        self.replies._runner = self.runner  # type: ignore[assignment]
        self.went: list[tuple[int, str]] = []

    def come(self, *deliveries: Delivery) -> None:
        self.replies.admit(list(deliveries), RABBITMQ_AMQP, self.go)

    def go(self, deliveries: list[Any]) -> None:
        """With the address that each would be sent with."""
        book = self.replies.book
        self.went += [(each[0], str(book.address(_reply_to(each)))) for each in deliveries]


def _reply_to(delivery: Delivery) -> str:
    return delivery[3][3:].decode() if delivery[3][0] & 2 else ""


def plain(tag: int) -> Delivery:
    return (tag, 0, b"\0\x01a", build({}), 1, body_frames(b"x", 4096))


def request(tag: int, reply_to: str) -> Delivery:
    return (tag, 0, b"\0\x01a", build({"reply_to": reply_to}), 1, body_frames(b"x", 4096))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_waits_when_the_link_is_paused_wakes_nobody() -> None:
    async def work() -> None:
        bench = Bench()
        bench.come(request(1, "amq.rabbitmq.reply-to.a"))
        bench.come(request(2, "amq.rabbitmq.reply-to.b"))
        await turns()
        bench.replies.pause("so")
        bench.runner.may.set()
        await turns()
        assert bench.went == []
        assert bench.runner.link.state is State.PAUSED
        bench.replies.resume()
        bench.come(request(1, "amq.rabbitmq.reply-to.b"))
        await turns()
        assert bench.went == [(1, "for amq.rabbitmq.reply-to.b")]

    run(work)


def test_a_requester_that_goes_with_its_reply_at_once_is_not_looked_for() -> None:
    async def work() -> None:
        rng = Random(1)
        here, there = dialer_of("amqp://127.0.0.1:1", {}, rng), dialer_of("amqp://h:2", {}, rng)
        book, direct = ReplyBook("b", "queue://a", 300.0), "amq.rabbitmq.reply-to.x"
        routes = Routes(Options(), "here", "there")
        span = Span("b", here, Pattern.parse("queue://a"), there, routes)
        runner = ReplyRunner(span, book, rng)
        book.enter(direct, RABBITMQ_AMQP, 0.0).address = "address"
        now = asyncio.get_running_loop().time()
        book.use(direct, now)
        runner._doubt(direct)
        assert not runner._doubts
        book.use(direct, now - 60.0)
        runner._doubt(direct)
        assert runner._doubts == {direct: 1}
        runner.stop()
        await runner.finished

    run(work)


def test_what_has_no_private_reply_to_goes_on_at_once() -> None:
    async def work() -> None:
        bench = Bench()
        bench.come(plain(1), request(2, "orders.replies"))
        assert bench.went == [(1, ""), (2, "orders.replies")]
        assert bench.runner.told == []
        deaf: list[list[Any]] = []
        NoReplies().admit([request(3, "amq.gen-a")], ACTIVEMQ, deaf.append)
        assert len(deaf) == 1

    run(work)


def test_a_request_waits_for_its_address_and_all_behind_it_for_their_turn() -> None:
    async def work() -> None:
        bench = Bench()
        bench.come(plain(1), request(2, "amq.gen-a"), request(3, "amq.gen-b"))
        bench.come(plain(4))
        bench.come(request(5, "amq.gen-a"))
        await turns()
        assert bench.went == []
        assert bench.runner.told == ["serve amq.gen-a", "serve amq.gen-b"]
        bench.runner.may.set()
        await turns()
        assert bench.went == [
            (1, ""),
            (2, "for amq.gen-a"),
            (3, "for amq.gen-b"),
            (4, ""),
            (5, "for amq.gen-a"),
        ]
        bench.come(request(6, "amq.gen-b"))
        assert bench.went[-1] == (6, "for amq.gen-b")
        assert (bench.replies.book.requests, bench.replies.book.unserved) == (4, 0)

    run(work)


@pytest.mark.parametrize("trouble", [ConnectionFailed("closed"), RuntimeError("a mistake")])
def test_where_no_address_can_be_made_requests_go_on_and_the_next_do_not_wait(
    trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        bench = Bench()
        bench.runner.trouble = trouble
        bench.runner.may.set()
        bench.come(request(1, "amq.gen-a"))
        await turns()
        bench.come(request(2, "amq.gen-b"))
        assert bench.went == [(1, "amq.gen-a"), (2, "amq.gen-b")]
        assert bench.runner.told == ["serve amq.gen-a"]
        assert bench.replies.book.unserved == 2
        bench.runner.trouble = None
        bench.replies._hopeless_until = 0.0
        bench.come(request(3, "amq.gen-a"))
        await turns()
        assert bench.went[-1] == (3, "for amq.gen-a")

    run(work)
    assert "requests go on with a reply-to that the target does not know" in caplog.text


def test_nobody_waits_longer_than_there_is_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies_shell, "PATIENCE", 0.001)

    async def work() -> None:
        bench = Bench()
        bench.come(request(1, "amq.gen-a"))
        while not bench.went:
            await asyncio.sleep(0)
        assert bench.went == [(1, "amq.gen-a")]

    run(work)


def test_what_came_from_a_source_that_is_opened_anew_is_forgotten() -> None:
    """Its tags mean other messages then."""

    async def work() -> None:
        bench = Bench()
        bench.come(request(1, "amq.gen-a"))
        await turns()
        bench.replies.let_go()
        bench.come(request(1, "amq.gen-b"))
        bench.runner.may.set()
        await turns()
        assert bench.went == [(1, "for amq.gen-b")]

    run(work)


def test_the_way_back_rests_when_nobody_waits_for_a_reply() -> None:
    async def work() -> None:
        bench = Bench(ttl=0.001)
        bench.runner.may.set()
        bench.come(request(1, "amq.gen-a"))
        while bench.runner.link.state is not State.PAUSED:
            await asyncio.sleep(0)
        served = ["serve amq.gen-a", "release amq.gen-a", "pause nobody waits for a reply"]
        assert bench.runner.told == served
        bench.come(request(2, "amq.gen-a"))
        await turns()
        assert bench.went == [(1, "for amq.gen-a"), (2, "for amq.gen-a")]
        bench.runner.stop()
        await bench.replies.ended()

    run(work)


def test_one_that_made_room_serves_who_asked_before_until_it_is_lost() -> None:
    async def work() -> None:
        bench = Bench()
        replies, before = bench.replies, bench.runner
        later = [Runner(), Runner()]
        replies._make = iter(later).__next__  # type: ignore[assignment]
        for runner in (before, *later):
            runner.may.set()
        bench.come(request(1, "amq.gen-a"))
        await turns()
        replies._renew(goes_on=True)
        assert (before.told[-1], replies.book.is_served("amq.gen-a")) == ("retire", False)
        bench.come(request(2, "amq.gen-b"))
        await turns()
        assert later[0].told == ["serve amq.gen-b"]
        assert before.on_lost is not None
        before.stop()
        before.on_lost("so")
        assert [one.reply_to for one in replies.book] == ["amq.gen-a", "amq.gen-b"]
        assert later[0].told[-1] == "retire"
        assert later[0].on_lost is None
        later[0].stop()
        replies._sweep()
        assert replies.look()["replies_lost"] == 3 + 3 + 3
        later[1].stop()
        await replies.ended()

    run(work)


def test_nothing_more_is_read_while_a_request_waits() -> None:
    """What the source tells of itself is true of what it delivered last."""

    async def work() -> None:
        bench = Bench()
        bench.come(plain(1))
        assert not bench.replies.is_holding
        bench.come(request(2, "amq.gen-a"))
        assert bench.replies.is_holding
        bench.runner.may.set()
        await turns()
        assert not bench.replies.is_holding

    run(work)


def test_requests_of_another_broker_are_served_by_another_link() -> None:
    """Also where nobody has said that it is another, as with a spool."""

    async def work() -> None:
        bench = Bench()
        before, later = bench.runner, Runner()
        bench.replies._make = lambda: later  # type: ignore[assignment]
        before.may.set()
        later.may.set()
        source, target = bench.replies._dialers
        source._last, target._last = parse("failover:(amqp://a,amqp://b)").endpoints
        bench.come(request(1, "amq.gen-a"))
        await turns()
        bench.come(request(2, "amq.gen-b"))
        await turns()
        assert before.told == ["serve amq.gen-a", "serve amq.gen-b"]
        source._last = parse("amqp://c").endpoints[0]
        bench.come(request(3, "amq.gen-c"))
        await turns()
        assert before.told[2:] == ["retire"]
        assert later.told == ["serve amq.gen-c"]
        before.stop()
        later.stop()
        await bench.replies.ended()

    run(work)
