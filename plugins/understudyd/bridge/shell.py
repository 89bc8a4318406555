"""Runs one link: carries what happens at its ends to the machine, and does what that asks for.

Rules
* The loop's thread is the only one. What a read brought is handled at once, in one go.
* The source's frames are no larger than the target's: bodies go on in the frames they came in.
* Opening and closing take time, see `worker`. What the machine has closed tells nothing more, also
  in the same turn.
* A batch that nobody can make anything of is given back: an acknowledgement of the next would
  settle it.
* A message that is parked, a question and the look for a preferred broker are errands: of each kind
  the last one counts, and none ends without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from understudyd.bridge.dedup.filter import NoFilter
from understudyd.bridge.ends.port import CanRest, ConnectionFailed, SourceHooks, TargetHooks
from understudyd.bridge.homing import Homing
from understudyd.bridge.joints import AnyDialer, Joint, Span, join, park
from understudyd.bridge.link import Link
from understudyd.bridge.pace import Pace
from understudyd.bridge.replies import NoReplies
from understudyd.bridge.status import Glance, LinkStatus, ParkTeller, Teller
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.reader import Confirm, Returned
from understudyd.bridge.words import (
    Acknowledge,
    Action,
    AskSource,
    CloseSource,
    CloseTarget,
    Finished,
    OpenSource,
    OpenTarget,
    ParkAtSource,
    Rest,
    Send,
    State,
    Widen,
)
from understudyd.bridge.worker import EndWorker, unexpected

__all__ = ["LinkRunner"]

_log = logging.getLogger("understudyd.bridge")


class LinkRunner:
    """One destination of the source, forwarded to the target."""

    def __init__(
        self,
        span: Span,
        *,
        rng: Random | None = None,
        pace: Pace | None = None,
        dedup: NoFilter | None = None,
        replies: NoReplies | None = None,
    ) -> None:
        """Raises ConfigurationError for a pattern that RabbitMQ cannot read."""
        self.name = span.name
        self._source_worker = EndWorker(
            lambda: self._dedup.leave(self._source.close),
            self._on_source_up,
            self._on_source_failed,
        )
        self._target_worker = EndWorker(
            lambda: self._target.close(), self._on_target_up, self._on_target_failed
        )
        hooks = (self._source_hooks(), self._target_hooks())
        self._replies = replies or NoReplies()
        self._joint = joint = self._join(span, hooks)
        self._source, self._target = joint.source, joint.target
        self._forwarder = joint.forwarder
        self._dedup = dedup or NoFilter()
        self._resting = joint.source if isinstance(joint.source, CanRest) else None
        can_rest = self._resting is not None
        self.link = Link(span.settings, joint.parking, rng or Random(), pace, can_rest=can_rest)
        self._dialers = (span.source, span.target)
        self._homing = Homing([end for end in self._dialers if end.has_home], self._on_home)
        self._loop = asyncio.get_running_loop()
        self._errands: dict[str, asyncio.Task[None]] = {}
        self._sent_as = ""  # the dialect that the target had when it was open last
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._spool = joint.spool
        self.status = LinkStatus(self.link, str(span.pattern), joint.spool)
        self._teller, self._park_teller = Teller(), ParkTeller()
        self._shown = ("", "")
        self.finished = self._loop.create_future()

    def _join(self, span: Span, hooks: tuple[SourceHooks[Any], TargetHooks]) -> Joint:
        return join(span, hooks, self._replies.book)

    @property
    def source_dialer(self) -> AnyDialer:
        """Opens connections to the source."""
        return self._dialers[0]

    def start(self) -> None:
        self._do(self.link.start(self._loop.time()))

    def pause(self, reason: str, *, at_once: bool = True) -> None:
        """Rest, at once or when what is in flight is settled; also in place of ``start()``."""
        self._do(self.link.pause(self._loop.time(), reason, at_once=at_once))
        self._replies.pause(reason)

    def resume(self) -> None:
        """Go on after a pause."""
        self._replies.resume()
        self._do(self.link.resume(self._loop.time()))

    def look(self) -> Glance:
        """How it is; to be called from time to time, also for the log's sake."""
        self.link.dropped, self.link.expired = self._forwarder.dropped, self._forwarder.expired
        glance = self.status.look(self._loop.time())
        self._tell(glance.state, glance.reason)
        self._tell_parked()
        return replace(glance, duplicates=self._dedup.duplicates, **self._replies.look())

    def stop(self) -> None:
        """Settle what is in flight, then end; ``finished`` is done when both ends are closed."""
        self._replies.stop()
        self._do(self.link.stop(self._loop.time()))

    # What the ends tell

    def _source_hooks(self) -> SourceHooks[Any]:
        heard = self._source_worker.heard
        return SourceHooks(heard(self._on_deliveries), heard(self._on_source_lost))

    def _target_hooks(self) -> TargetHooks:
        heard = self._target_worker.heard
        return TargetHooks(
            heard(self._on_confirms),
            heard(self._on_returned),
            heard(self._on_blocked),
            heard(self._on_congested),
            heard(self._on_target_lost),
        )

    def _on_deliveries(self, deliveries: list[Any]) -> None:
        self._replies.admit(deliveries, self._source.dialect, self._forward)
        if self._replies.is_holding:
            self._source.read(False)

    def _forward(self, deliveries: list[Any]) -> None:
        if not self.link.takes_deliveries:
            return  # so that closing gives them back
        try:
            wanted = self._dedup.sift(deliveries, self._source)
            batch = self._forwarder.prepare(wanted, int(time.time() * 1000))
        except Exception as error:
            self._source_worker.close()
            self._on_source_failed(unexpected(error))
            return
        if batch.parked:
            sent = zip(batch.tags, batch.parcels, strict=True)
            self._dedup.forget([tag for tag, it in sent if self._joint.parking.holds(it)])
        self._do(self.link.delivered(batch, self._loop.time(), deliveries[-1][0]))

    def _on_confirms(self, confirms: list[Confirm]) -> None:
        actions = self.link.confirmed(confirms, self._loop.time())
        self._dedup.confirmed(self.link.ledger)
        self._do(actions)

    def _on_returned(self, message: Returned) -> None:
        self._do(self.link.returned(message, self._loop.time()))

    def _on_blocked(self, reason: str | None) -> None:
        if reason is None:
            self.link.unblocked(self._loop.time())
        else:
            self.link.blocked(reason, self._loop.time())
        self._do([])

    def _on_congested(self, is_congested: bool) -> None:
        self.link.congested(is_congested, self._loop.time())
        self._do([])

    def _on_source_lost(self, reason: str) -> None:
        self._dialers[0].fail()
        self._do(self.link.source_lost(reason, self._loop.time()))

    def _on_target_lost(self, reason: str, closed: Closed | None) -> None:
        self._dialers[1].fail()
        self._do(self.link.target_lost(reason, self._loop.time(), closed))

    def _on_source_up(self) -> None:
        self._replies.follow()
        dialect = self._source.dialect
        is_patient = dialect is not None and dialect.is_patient
        self._do(self.link.source_up(self._loop.time(), is_patient=is_patient))

    def _on_source_failed(self, failed: ConnectionFailed) -> None:
        self._on_source_lost(str(failed))

    def _on_target_up(self) -> None:
        self._replies.follow()
        before, now, dialect = self._sent_as, self._loop.time(), self._target.dialect
        self._sent_as = dialect.name if dialect else ""
        self._dedup.target_is(dialect)
        is_another = before not in ("", self._sent_as)
        if is_another or self._source.frame_max > self._target.frame_max:
            self._source_worker.close()
            why = "opened anew, since the target is another broker now"
            self._do(self.link.source_lost(why, now))
        is_late = dialect is not None and dialect.confirms_when_idle
        self._do(self.link.target_up(now, confirms_when_idle=is_late))

    def _on_target_failed(self, failed: ConnectionFailed) -> None:
        self._on_target_lost(str(failed), failed.closed)

    def _on_home(self) -> None:
        self._do(self.link.move(self._loop.time()))

    def _on_timer(self) -> None:
        self._timer = None
        self._do(self.link.tick(self._loop.time()))

    # What the machine asks for

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._target.send(action.pieces)
            elif isinstance(action, Acknowledge):
                self._dedup.acknowledge(action.tag, self._source.acknowledge)
            elif isinstance(action, Widen):
                self._dedup.follow(partial(self._source.widen, action.window))
            elif isinstance(action, Rest) and self._resting is not None:
                self._dedup.follow(self._resting.rest)
            else:
                self._do_slowly(action)
        self._source.read(self.link.wants_reading and not self._replies.is_holding)
        self._spool.follow(self.link.state.value)
        if self.link.state in (State.PAUSED, State.GIVEN_UP):
            self._give_up("homing")
        self._set_timer()
        shown = self._spool.shown(self.link.shown, self.link.reason)
        if shown != self._shown:
            self._shown = shown
            self._tell(*shown)

    def _do_slowly(self, action: Action) -> None:
        if isinstance(action, OpenTarget):
            if self._homing.is_needed and "homing" not in self._errands:
                self._run("homing", self._homing.watch())
            self._target_worker.open(self._target.open)
        elif isinstance(action, CloseTarget):
            if action.has_failed:
                self._dialers[1].fail()
            self._target_worker.close()
        elif isinstance(action, OpenSource):
            self._replies.let_go()
            self._source_worker.open(partial(self._open_source, action.window))
        elif isinstance(action, CloseSource):
            self._give_up("question")
            self._source_worker.close()
        elif isinstance(action, AskSource):
            self._run("question", self._ask_source())
        elif isinstance(action, ParkAtSource):
            self._run("parking", self._park(action))
        elif isinstance(action, Finished):
            self._run("finish", self._finish())

    async def _open_source(self, window: int) -> None:
        await self._dedup.begin(self.link.ledger)
        await self._source.open(window, self._target.frame_max)

    async def _ask_source(self) -> None:
        with contextlib.suppress(ConnectionFailed):  # that is told as a loss
            ready = await self._source.ready()
            self._do(self.link.source_has(ready, self._loop.time()))

    async def _park(self, action: ParkAtSource) -> None:
        failed: ConnectionFailed | None = None
        try:
            await park(self._joint, action)
        except ConnectionFailed as error:
            failed = error
        except Exception as error:
            failed = unexpected(error)
        if failed is None:
            self._do(self.link.park_done(action, self._loop.time()))
        else:
            self._do(self.link.park_failed(str(failed), self._loop.time()))

    async def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        errands = [task for name, task in self._errands.items() if name != "finish"]
        for errand in errands:
            errand.cancel()
        try:
            await asyncio.gather(*errands, return_exceptions=True)
            await self._source_worker.ended()
            await self._target_worker.ended()
            await self._joint.deposit.close()
            await self._spool.end()
            await self._replies.ended()
        finally:
            await self._dedup.end()
            if not self.finished.done():
                self.finished.set_result(None)

    def _run(self, errand: str, work: Coroutine[Any, Any, None]) -> None:
        """Begin it; the one before of its kind is given up."""
        self._give_up(errand)
        task = self._errands[errand] = self._loop.create_task(work)
        task.add_done_callback(partial(self._ended, errand))

    def _give_up(self, errand: str) -> None:
        task = self._errands.pop(errand, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _ended(self, errand: str, task: asyncio.Task[None]) -> None:
        if self._errands.get(errand) is task:
            del self._errands[errand]
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            unexpected(error)

    def _set_timer(self) -> None:
        due = self.link.due
        if self._timer is not None:
            if due is not None and self._timer_due <= due:
                return  # it comes early and looks again
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_due = due
            self._timer = self._loop.call_at(due, self._on_timer)

    def _tell(self, state: str, reason: str) -> None:
        if (line := self._teller.tell(state, reason, self._loop.time())) is not None:
            level, text = line
            _log.log(level, "bridge %s %s %s", self.name, self.status.destination, text)

    def _tell_parked(self) -> None:
        parking, now = self._joint.parking, self._loop.time()
        line = self._park_teller.tell(self.link.parked, parking.where, parking.reason, now)
        if line is not None:
            _log.warning("bridge %s %s %s", self.name, self.status.destination, line)
