"""The link that brings replies back: what `replies_shell` begins and lets rest.

Rules
* It is a link as any other, from the responder's broker to the requester's, that reads many queues.
* One that has made room for another (`retire`) is bound to the connections that it has.
* A reply whose requester is gone is settled and counted, and the address is given up. Who is gone
  is told by what comes back (RabbitMQ), by an ERROR (ActiveMQ), or looked for where none tells
  (`ends.reply_looks`), at one requester once in a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import quote, unquote

from understudy.core.endpoint import Endpoint
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.amqp import AmqpTarget
from understudyd.bridge.ends.endpoints import Dialer, StompDialer
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks, TargetEnd, TargetHooks
from understudyd.bridge.ends.reply_looks import LATENESS, AmqpLook, StompLook
from understudyd.bridge.ends.reply_sources import AmqpReplySource, StompReplySource
from understudyd.bridge.ends.reply_targets import StompReplyTarget
from understudyd.bridge.ends.stream import within
from understudyd.bridge.forward import Forwarder
from understudyd.bridge.forward_translated import TranslatingForwarder
from understudyd.bridge.joints import AnyDialer, Joint, Span, deposit_of, now
from understudyd.bridge.names import Pattern
from understudyd.bridge.parking import Parking
from understudyd.bridge.parking_translated import TranslatedParking
from understudyd.bridge.replies import DIRECT, MOST, PREFIX, ReplyBook, ReplyRoutes, Requester
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.shell import LinkRunner
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.reader import Returned
from understudyd.bridge.words import Action, CloseSource, State

__all__ = ["ReplyRunner"]

IDLE_TIME = 5.0  # s without a look; then their connection is closed
PRECONDITION_FAILED = 406  # one reply may be at fault (`outcomes`)
INTERNAL_ERROR = 541  # so may one be that is for a direct reply-to of an unknown node
KIND = "reply"  # of what is read; what nobody waits for is dropped
QUEUES = "amq.gen-"  # that RabbitMQ has named


class ReplyRunner(LinkRunner):
    """From the addresses that responders were told to the requesters."""

    def __init__(self, asked: Span, book: ReplyBook, rng: Random) -> None:
        """``asked`` is the span of the link that brings the requests."""
        self._book = book
        self._is_up = asyncio.Event()
        self._is_retired = False
        self._on_lost: Callable[[str], None] | None = None
        self._doubts: Counter[str] = Counter()  # replies by where they went
        self._is_doubtful = asyncio.Event()
        self._trusted: dict[str, float] = {}  # until when requesters are taken to be there
        self._back = ReplyRoutes(book, unquote(asked.routes.there), unquote(asked.routes.here))
        span = _way_back(asked, self._back)
        beside = span.target.beside("look")
        self._looks = AmqpLook(beside) if isinstance(beside, Dialer) else StompLook(beside)
        super().__init__(span, rng=rng)
        self._began = self._loop.time()

    def wake(self) -> None:
        """Run, where it does not."""
        if self.link.state is State.IDLE:
            self.start()
        elif self.link.state in (State.PAUSED, State.PAUSING):
            self.resume()

    @property
    def places(self) -> tuple[Endpoint | None, Endpoint | None]:
        """Where requests come from and go to, as far as it is connected there."""
        source, target = self._dialers
        return target.current, source.current

    async def serve(self, requester: Requester) -> None:
        """Make its address, when both ends are open; raises ConnectionFailed. One that has made
        room for another does not."""
        await self._is_up.wait()
        if self._is_retired:
            return
        source = self._source
        assert isinstance(source, (AmqpReplySource, StompReplySource))
        if not requester.address:  # else it has got one when they were opened
            await source.serve(requester)

    @property
    def is_worn(self) -> bool:
        """Whether another should take its place: of what it has made too much is of no use."""
        return isinstance(self._source, StompReplySource) and self._source.is_worn

    def retire(self, on_lost: Callable[[str], None] | None = None) -> None:
        """Another takes its place. With ``on_lost`` what responders were told before is still read;
        that is called when it cannot be any more."""
        self._is_retired = True
        self._is_up.set()  # nobody need wait for it
        if isinstance(self._source, StompReplySource):
            self._source.retire()
        if on_lost is None or self.link.state is not State.RUNNING:
            self.stop()
        else:
            self._on_lost = on_lost

    def release(self, requester: Requester) -> None:
        """Nobody waits there any more."""
        source = self._source
        assert isinstance(source, (AmqpReplySource, StompReplySource))
        source.release(requester)

    def _do_slowly(self, action: Action) -> None:
        if isinstance(action, CloseSource):
            self._is_up.clear()
        super()._do_slowly(action)

    def _on_source_up(self) -> None:
        self._is_up.set()
        super()._on_source_up()

    def _on_source_lost(self, reason: str) -> None:
        self._is_up.clear()
        super()._on_source_lost(reason)
        self._end_retired(reason)

    def _on_target_up(self) -> None:
        self._back.dialect = self._target.dialect.name if self._target.dialect else ""
        super()._on_target_up()

    def _on_target_lost(self, reason: str, closed: Closed | None) -> None:
        if closed is not None and closed.code == INTERNAL_ERROR:
            closed = replace(closed, code=PRECONDITION_FAILED)
        super()._on_target_lost(reason, closed)
        self._end_retired(reason)

    def _end_retired(self, reason: str) -> None:
        """It has no other broker to go to."""
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None and self.link.state is not State.STOPPED:
            self.stop()
            on_lost(reason)

    async def _open_source(self, window: int) -> None:
        self._is_up.clear()
        await super()._open_source(window)

    def _join(self, span: Span, hooks: tuple[SourceHooks[Any], TargetHooks]) -> Joint:
        name, where, routes = span.name, span.settings.parking, span.routes
        writer = self._target_of(span.target, hooks[1])
        reader: AmqpReplySource | StompReplySource
        if isinstance(span.source, StompDialer):
            reader = StompReplySource(span.source, span.pattern, hooks[0], self._book)
        else:
            reader = AmqpReplySource(span.source, f"understudy.{name}", hooks[0], self._book)

        def dialects() -> tuple[Dialect, Dialect]:
            assert reader.dialect is not None
            assert writer.dialect is not None
            return reader.dialect, writer.dialect

        forwarder: Forwarder | TranslatingForwarder
        if span.is_raw:
            parking = Parking(name, where, now, lambda: writer.frame_max)
            forwarder = Forwarder(routes, None, parking)
        else:
            parking = translated = TranslatedParking(name, dialects, where, now)
            room = (translated, dialects, lambda: writer.frame_max)
            forwarder = TranslatingForwarder(routes, None, KIND, *room)
        return Joint(reader, writer, forwarder, parking, deposit_of(span.source, parking))

    def _target_of(self, dialer: AnyDialer, hooks: TargetHooks) -> TargetEnd:
        if isinstance(dialer, StompDialer):
            return StompReplyTarget(dialer, hooks, self._miss, self._doubt_queue)
        told = TargetHooks(
            hooks.on_confirms,
            self._came_back,  # and its confirm settles it
            hooks.on_blocked,
            hooks.on_congested,
            hooks.on_lost,
        )
        return AmqpTarget(dialer, "", told)

    # Whether requesters are there still

    def _came_back(self, message: Returned) -> None:
        """A direct reply-to is no queue to RabbitMQ: what went there comes back in any case."""
        if message.routing_key.startswith(DIRECT):
            self._doubt(message.routing_key)
        else:
            self._miss(message.routing_key)

    def _doubt_queue(self, destination: str) -> None:
        if QUEUES in destination:
            self._doubt(destination)

    def _doubt(self, where: str) -> None:
        now = self._loop.time()
        asked_at = self._book.used_at(_reply_to(where))
        is_in_time = self._began <= asked_at and now < asked_at + LATENESS
        if now < self._trusted.get(where, 0.0) or is_in_time or self._is_retired:
            return
        self._doubts[where] += 1
        self._is_doubtful.set()
        if "look" not in self._errands:
            self._run("look", self._look_after())

    async def _look_after(self) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                while self._doubts:
                    await self._look_at(next(iter(self._doubts)))
                self._is_doubtful.clear()
                await within(IDLE_TIME, self._is_doubtful.wait())
        await self._looks.close()

    async def _look_at(self, where: str) -> None:
        try:
            is_there = await self._looks.is_there(where)
        except ConnectionFailed:
            is_there = True  # nobody knows
        count = self._doubts.pop(where)
        if not is_there:
            self._miss(_reply_to(where), count)
            return
        if len(self._trusted) >= MOST:
            self._trusted.clear()
        self._trusted[where] = self._loop.time() + self._looks.trust

    def _miss(self, reply_to: str, count: int = 1) -> None:
        gone = self._book.miss(reply_to, count)
        if gone is not None:
            self.release(gone)

    async def _finish(self) -> None:
        self._give_up("look")
        await self._looks.close()
        await super()._finish()


def _way_back(asked: Span, routes: ReplyRoutes) -> Span:
    """From where requests go to where they come from."""
    settings = asked.settings
    return Span(
        asked.name,
        asked.target.beside("replies"),
        Pattern.parse(f"queue://{PREFIX}{quote(asked.name, safe='')}.>"),
        asked.source.beside("replies"),
        routes,
        LinkSettings(
            hold_time=settings.hold_time,
            source_backoff=settings.target_backoff,
            target_backoff=settings.source_backoff,
            parking=settings.parking,
        ),
    )


def _reply_to(where: str) -> str:
    """Without what STOMP has in front of a queue's name."""
    return where[max(0, where.find(QUEUES)) :]
