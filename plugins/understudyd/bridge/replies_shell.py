"""Brings replies back over a bridge: gives requesters their addresses, and runs the link for what
comes there (`replies` tells what that is about).

Rules
* That link is one as any other, from the responder's broker to the requester's. It begins with the
  first request, and rests while nobody waits for a reply.
* A request waits until its address is made, `PATIENCE` at most, and what came behind it waits as
  well. Then it goes on as it is, so that its requester sees a time-out; for `RETRY_AFTER` no other
  waits for that.
* Both ends of that link are at the very brokers that the requests come from and go to. When these
  are others by now, it makes room for another link; so does one that is worn
  (`ends.reply_sources`). What was asked before still gets its replies by the one before, which ends
  when no reply can come by it any more, or when it loses an end: then the new one takes over what
  it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

from understudy.core.endpoint import Endpoint
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stream import within
from understudyd.bridge.joints import Span
from understudyd.bridge.replies import NoReplies, ReplyBook, asked_in
from understudyd.bridge.replies_runner import ReplyRunner
from understudyd.bridge.words import State
from understudyd.bridge.worker import unexpected
from understudyd.config.bridges import BridgeConfig

__all__ = ["Replies", "replies_of"]

PATIENCE = 5.0  # s
RETRY_AFTER = 10.0  # s
LOOK_EVERY = 10.0  # s, for requesters that have not asked for long

_log = logging.getLogger("understudyd.bridge")


class Replies(NoReplies):
    """Of one link, whose requests get addresses of ours."""

    def __init__(
        self, span: Span, *, ttl: float, is_all: bool = False, rng: Random | None = None
    ) -> None:
        """``span`` is that of the link, ``ttl`` and ``is_all`` are of the book."""
        self.book: ReplyBook = ReplyBook(span.name, str(span.pattern), ttl, is_all=is_all)
        self._loop = asyncio.get_running_loop()
        self._dialers = (span.source, span.target)
        self._make = partial(ReplyRunner, span, self.book, rng or Random())
        self._runner = self._make()
        self._retired: dict[ReplyRunner, float] = {}  # and when each is to end
        self._past = Counter[str]()  # what those counted that have ended
        self._held: deque[list[Any]] = deque()
        self._providing: asyncio.Task[None] | None = None
        self._hopeless_until = 0.0
        self._has_told = False
        self._look: asyncio.TimerHandle | None = None
        self._places: tuple[Endpoint | None, Endpoint | None] = (None, None)

    @property
    def is_holding(self) -> bool:
        return bool(self._held)

    def admit(
        self, deliveries: list[Any], dialect: Dialect | None, then: Callable[[list[Any]], None]
    ) -> None:
        if dialect is None:  # nothing is known of the source yet
            then(deliveries)
            return
        if not self._held:
            asked, others = asked_in(deliveries, dialect, is_all=self.book.is_all)
            if others and not self._has_told:
                self._tell_of_others()
            if not asked or not self._lacks(asked):
                self._go_on(deliveries, asked, then)
                return
        self._held.append(deliveries)
        if self._providing is None:
            self._providing = self._loop.create_task(self._provide(dialect, then))

    def _tell_of_others(self) -> None:
        self._has_told = True
        _log.info(
            "bridge %s: requests name an ordinary queue for their replies, which a responder finds "
            'only where the target has it too; with replies = "all" such replies come back as well',
            self._runner.name,
        )

    def _lacks(self, asked: Iterable[str]) -> list[str]:
        """Those that have no address, where there is hope for one."""
        if self._loop.time() < self._hopeless_until:
            return []
        return [one for one in asked if not self.book.is_served(one)]

    def _go_on(
        self, deliveries: list[Any], asked: Iterable[str], then: Callable[[list[Any]], None]
    ) -> None:
        for reply_to in asked:
            self.book.use(reply_to, self._loop.time(), self._dialers[0].current)
        then(deliveries)

    async def _provide(self, dialect: Dialect, then: Callable[[list[Any]], None]) -> None:
        try:
            while self._held:
                asked, _ = asked_in(self._held[0], dialect, is_all=self.book.is_all)
                if lacking := self._lacks(asked):
                    await self._serve_in_time(lacking, dialect)
                self._go_on(self._held.popleft(), asked, then)
        finally:
            if self._providing is asyncio.current_task():
                self._providing = None

    async def _serve_in_time(self, lacking: Iterable[str], dialect: Dialect) -> None:
        try:
            await within(PATIENCE, self._serve(lacking, dialect))
        except TimeoutError:
            self._give_up(f"no answer within {PATIENCE:g} s; {self._runner.link.reason}")
        except ConnectionFailed as failed:
            self._give_up(str(failed))
        except Exception as error:
            self._give_up(str(unexpected(error)))

    def _give_up(self, why: str) -> None:
        self._hopeless_until = self._loop.time() + RETRY_AFTER
        _log.warning(
            "bridge %s: requests go on with a reply-to that the target does not know: %s",
            self._runner.name,
            why,
        )

    async def _serve(self, lacking: Iterable[str], dialect: Dialect) -> None:
        self.follow()  # nobody tells when a spool takes from another broker by now
        runner: ReplyRunner | None = None
        while runner is not self._runner:  # another may have taken its place
            if self._runner.is_worn:
                self._renew(goes_on=self._runner.link.state is State.RUNNING)
            runner = self._runner
            runner.wake()
            self._places = self._current
            self._watch()
            requesters = []
            for reply_to in dict.fromkeys(lacking):
                with contextlib.suppress(Untranslatable):  # no address that its broker could serve
                    requesters.append(self.book.enter(reply_to, dialect, self._loop.time()))
            await asyncio.gather(*map(runner.serve, requesters))

    def _renew(self, *, goes_on: bool) -> None:
        """Another link takes the place of the one in use, which ends, or goes on reading what
        responders were told before."""
        before, self._runner = self._runner, self._make()
        self._retired[before] = self._loop.time() + self.book.ttl
        if goes_on:
            self.book.turn()
            before.retire(self._take_over)
        else:
            self.book.turn_back(self._current[0])
            before.retire()
        if len(self.book):
            self._runner.wake()
        self._watch()

    def _take_over(self, why: str) -> None:
        _log.warning(
            "bridge %s: replies may be lost that were to come by brokers that are not in use any "
            "more: %s",
            self._runner.name,
            why,
        )
        self._renew(goes_on=False)

    def _watch(self) -> None:
        if self._look is None:
            self._look = self._loop.call_later(min(LOOK_EVERY, self.book.ttl), self._sweep)

    def _sweep(self) -> None:
        self._look = None
        for requester in self.book.overdue(self._loop.time()):
            self._runner.release(requester)
        for runner, until in list(self._retired.items()):
            if runner.finished.done():
                del self._retired[runner]
                runner.look()
                self._past += _counts(runner)
            elif self._loop.time() > until:
                runner.stop()
        if len(self.book) or self._retired:
            self._watch()
        if not len(self.book) and not self._held:
            self._runner.pause("nobody waits for a reply", at_once=False)

    @property
    def _current(self) -> tuple[Endpoint | None, Endpoint | None]:
        source, target = self._dialers
        return source.current, target.current

    def let_go(self) -> None:
        self._held.clear()
        if self._providing is not None:
            self._providing.cancel()
            self._providing = None

    def follow(self) -> None:
        if None not in self._places and self._current != self._places:
            self._places = self._current
            state = self._runner.link.state
            if state not in (State.IDLE, State.PAUSED, State.PAUSING):
                is_elsewhere = self._runner.places != self._current
                self._renew(goes_on=state is State.RUNNING and is_elsewhere)

    def pause(self, reason: str) -> None:
        self.let_go()  # none of it is taken any more, and its requesters would wake the runner
        if self._runner.link.state is not State.IDLE:
            self._runner.pause(reason)
        for runner in self._retired:
            runner.stop()
        self.book.turn_back()

    def resume(self) -> None:
        if len(self.book):
            self._runner.wake()

    def stop(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for runner in (self._runner, *self._retired):
            runner.stop()

    async def ended(self) -> None:
        self.let_go()
        self.stop()
        await asyncio.gather(*(runner.finished for runner in (self._runner, *self._retired)))

    def look(self) -> dict[str, Any]:
        link, book, counts = self._runner.link, self.book, Counter(self._past)
        for runner in (self._runner, *self._retired):
            if runner.link.state is not State.IDLE:
                runner.look()
            counts += _counts(runner)
        return {
            "requests": book.requests,
            "replies": counts["sent"] - book.lost,
            "replies_lost": counts["left"] + book.lost,
            "requests_unserved": book.unserved,
            "requesters": len(book),
            "replies_reason": link.reason if link.state is not State.PAUSED else "",
        }


def _counts(runner: ReplyRunner) -> Counter[str]:
    link = runner.link
    return Counter(sent=link.forwarded, left=link.dropped + link.expired + link.parked)


def replies_of(bridge: BridgeConfig, span: Span, rng: Random) -> NoReplies:
    """Of one link of a bridge, as it is configured."""
    if not bridge.replies:
        return NoReplies()
    return Replies(span, ttl=bridge.reply_ttl, is_all=bridge.replies == "all", rng=rng)
