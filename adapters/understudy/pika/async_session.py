"""What outlives a broker for one `AsyncConnection`: the wire of the moment, on an event loop.

Rules
* Everything here runs on one event loop, and nothing blocks it. Dialing is the supervisor's work,
  on its own threads.
* One task, the keeper, brings a wire and everything that the application had on it, waits for its
  loss, and begins again. Calls never connect: they wait for the keeper, each with its own deadline,
  so that a call that is cancelled leaves nothing half done.
* The wire is watched by the monitor as any other, for heartbeats go on while the loop is busy; but
  only the loop reads it and closes its descriptor.
* What fails for all who wait (reconnecting was given up; no endpoint restores what there was) is
  told to all who wait at that moment. The next call begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

from understudy import discovery, errors
from understudy.core.suspects import Suspects
from understudy.core.uri import FailoverURI
from understudy.failover.deadline import NEVER, Deadline, DeadlinePassed
from understudy.failover.monitor import monitor
from understudy.failover.notifier import EventCallback, logger
from understudy.failover.supervisor import Supervisor
from understudy.pika import alarms, restoring
from understudy.pika.async_acquiring import acquire
from understudy.pika.async_waiting import AsyncWaiting
from understudy.pika.dialing import SCHEMES, PikaDialer
from understudy.pika.errors import CLOSED, IS_CLOSED, ConnectFailed, ConnectionLost
from understudy.pika.link_channel import LinkLost
from understudy.pika.requests import Verdicts
from understudy.pika.restoring import EndpointRefusals, RestoreFailed, Step
from understudy.pika.topology import Topology
from understudy.pika.wire import GOODBYE, Wire

if TYPE_CHECKING:
    from understudy.pika.async_channel import AsyncChannel
    from understudy.pika.async_fanout import AsyncFanout

__all__ = ["AsyncSession"]


class AsyncSession(AsyncWaiting):
    def __init__(
        self, uri: FailoverURI, dialer: PikaDialer, on_event: EventCallback | None
    ) -> None:
        """To be made within the event loop that it belongs to."""
        super().__init__()
        self.options = uri.options
        self.topology = Topology()
        self.channels: dict[int, AsyncChannel] = {}
        self.wire: Wire | None = None
        self.is_closed = False
        self.stale_acks = 0
        self.suspects = Suspects()
        self.on_blocked: Callable[[Any], None] = lambda method_frame: None
        self.fanout: AsyncFanout | None = None
        self.supervisor: Supervisor[Wire] = Supervisor(uri, dialer, on_event=on_event)
        self.discovery = discovery.attach(uri, self.supervisor, schemes=SCHEMES)
        self.supervisor.attach(self)
        self._is_live = False
        self._to_open: list[AsyncChannel] = []  # beside what is restored with the wire
        self._failures = 0  # how often everybody who waited got an error
        self._failure: Exception | None = None
        self._wants = 0  # calls that found no wire, so far
        self._refusals = EndpointRefusals()
        self._lost_at = 0.0
        self._writes = False  # the loop watches for room to write
        self._keeper = self.loop.create_task(self._keep(), name="understudy-keeper")
        self._keeper.add_done_callback(_report_a_bug)

    def __repr__(self) -> str:
        return f"<AsyncSession {self.supervisor!r}>"

    def deadline(self) -> Deadline:
        """Of a call that begins now, as ``timeout`` has it."""
        timeout = self.options.timeout
        return NEVER if timeout < 0 else Deadline(timeout / 1000)

    # --- calls ----------------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether there is a wire with everything restored."""
        return self._is_live and self.wire is not None and self.wire.lost is None

    def check_open(self, text: str = IS_CLOSED) -> None:
        if self.is_closed:
            raise ConnectionLost(text)

    def want(self) -> None:
        """Somebody needs a wire: cut short a long delay, begin anew after giving up."""
        self.check_open()
        if not self.is_live:
            self._wants += 1
            self.supervisor.hurry()
            self.changed()

    async def ready(self, is_ready: Callable[[], bool], deadline: Deadline = NEVER) -> None:
        """Wait until ``is_ready``, having the keeper bring a wire.

        Raises DeadlinePassed, ConnectFailed when reconnecting was given up, ConnectionLost when
        closed, and the broker's channel error when no endpoint restores what there was.
        """
        failures = self._failures
        self.want()
        arrived = await self.until(
            lambda: is_ready() or self.is_closed or self._failures != failures, deadline.moment
        )
        if is_ready():
            return
        self.check_open(CLOSED)
        if not arrived:
            raise DeadlinePassed
        assert self._failure is not None
        raise copy.copy(self._failure)

    async def exchange(
        self, begin: Callable[[Wire], Callable[[], bool]], deadline: Deadline
    ) -> Wire:
        """Have something done that every new wire needs anew, in turn (see `core.suspects`).

        ``begin`` writes it, and returns what tells that it is over. Raises as `ready`, and the
        broker's error when it closes the connection over it.
        """
        suspects, party, verdicts = self.suspects, object(), Verdicts()
        try:
            while True:
                await self.ready(lambda: self.is_live and suspects.may_go(party), deadline)
                wire = self.wire
                assert wire is not None
                suspects.began(party)
                with self.writing(wire):
                    is_over = begin(wire)
                try:
                    if await self.answered(wire, is_over, deadline.moment):
                        return wire
                except LinkLost as lost:
                    if culprit := verdicts.note(lost.cause, lost.convicts()):
                        raise culprit from None
                else:
                    raise DeadlinePassed
        finally:
            self.end(party)

    def end(self, party: Hashable) -> None:
        """Nothing of this party's is outstanding any more; see `core.suspects`."""
        was_suspicious = bool(self.suspects)
        self.suspects.ended(party)
        if was_suspicious:
            self._pump()
            self.changed()

    def _pump(self) -> None:
        for channel in list(self.channels.values()):
            channel.pump()

    def open(self, channel: AsyncChannel) -> None:
        """Have the keeper open, or open again, a channel on the present wire, if there is one."""
        if self.wire is not None and channel not in self._to_open:
            self._to_open.append(channel)
            self.changed()

    def forget_channel(self, channel: AsyncChannel) -> None:
        """It is over; its number is free again."""
        if self.channels.get(channel.number) is channel:
            del self.channels[channel.number]
            self.changed()

    def forget_unused_queue(self, queue: str) -> None:
        """The broker deletes an auto-delete queue with its last consumer."""
        if self.topology.is_auto_delete(queue) and not any(
            channel.consumes(queue) for channel in self.channels.values()
        ):
            self.topology.forget_queue(queue)

    @contextlib.contextmanager
    def writing(self, wire: Wire) -> Iterator[None]:
        """Around everything that writes to a wire."""
        with wire.guard:
            yield
        self._watch_for_room(wire)

    # --- the keeper -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        try:
            while True:
                try:
                    wire = await acquire(self.supervisor, self.check_open)
                except errors.ConnectFailed as exc:
                    await self._fail(self._hopeless(exc))
                    continue
                refusal = await self._serve_until_lost(wire)
                if refusal is not None:
                    await self._fail(refusal)
        finally:
            self._shut()

    def _hopeless(self, exc: errors.ConnectFailed) -> Exception:
        if not self.options.reconnect and self.supervisor.epoch:
            return ConnectionLost(str(exc))
        return ConnectFailed(str(exc).partition("\n")[0], exc.attempts)

    async def _serve_until_lost(self, wire: Wire) -> Exception | None:
        """Use a wire for as long as it lives; the error if no endpoint restores what there was."""
        try:
            self._attach(wire)
            self.suspects.began(self)  # restoring is a party that nobody keeps waiting
            await self._drive(wire, self._all_steps(wire))
            self._refusals.clear()
            self._is_live = True
            self.end(self)
            self.changed()
            while True:
                await self.answered(wire, lambda: bool(self._to_open))
                await self._open_channels(wire)
        except LinkLost as lost:
            if lost.is_verdict and lost.cause is not None and self._is_restoring_to_blame(wire):
                return self._endpoint_failed(wire, RestoreFailed(lost.cause))
            return None
        except RestoreFailed as exc:
            return self._endpoint_failed(wire, exc)
        finally:
            self._leave(wire)

    def _is_restoring_to_blame(self, wire: Wire) -> bool:
        return self.suspects.is_alone(self) and restoring.is_to_blame(wire)

    async def _drive(self, wire: Wire, steps: Iterator[Step]) -> None:
        while True:
            with self.writing(wire):
                step = next(steps, None)
            if step is None:
                return
            await self.answered(wire, *step)

    def _all_steps(self, wire: Wire) -> Iterator[Step]:
        until = self._lost_at + restoring.patience(wire.heartbeat)
        methods = self.topology.methods()
        if methods:
            yield from restoring.topology(wire, methods, self.channels, until)
        self._to_open.clear()
        channels = self.channels.values()
        living = [one for one in channels if one.is_kept and not one.is_closed]
        yield from restoring.channels(wire, living, until)

    async def _open_channels(self, wire: Wire) -> None:
        """One by one, so that each gets its own refusal."""
        while self._to_open:
            channel = self._to_open.pop(0)
            if channel.is_closed:
                continue
            until = time.monotonic() + restoring.patience(wire.heartbeat)
            try:
                await self._drive(wire, restoring.channels(wire, [channel], until))
            except RestoreFailed as exc:
                channel.could_not_be_restored(exc.cause)
                self._to_open.append(channel)
            self.changed()

    async def _fail(self, failure: Exception) -> None:
        """Tell everybody who waits, then wait until somebody wants a wire again."""
        self._failure = failure
        self._failures += 1
        wants = self._wants
        for channel in list(self.channels.values()):
            channel.gave_up(failure)
        self.changed()
        await self.until(lambda: self._wants != wants or self.is_closed)

    def _endpoint_failed(self, wire: Wire, failure: RestoreFailed) -> Exception | None:
        wire.sever(str(failure))
        logger.warning("%s: %s", wire.endpoint, failure)
        hopeless = self._refusals.is_hopeless(wire.endpoint, self.supervisor.endpoints)
        return failure.cause if hopeless else None

    # --- the wire -------------------------------------------------------------------------------

    def _attach(self, wire: Wire) -> None:
        with wire.guard:
            if wire.lost is not None:
                raise wire.lost
            wire.is_polled = True  # from now on only we close it
            wire.may_read = lambda: False
            wire.on_blocked = self._on_blocked
            self.wire = wire
            self.loop.add_reader(wire.fileno(), self._serve, wire)
        if wire.blocked is not None:  # since before it was ours
            self._on_blocked(wire.blocked)
        self._serve(wire)

    def _serve(self, wire: Wire) -> None:
        if wire is not self.wire:
            return
        with wire.guard:
            wire.serve()
        self._watch_for_room(wire)
        if wire.has_decrypted():
            self.loop.call_soon(self._serve, wire)
        self.changed()

    def _watch_for_room(self, wire: Wire) -> None:
        if wire is not self.wire or wire.lost is not None:
            return
        if wire.unwritten and not self._writes:
            self._writes = True
            self.loop.add_writer(wire.fileno(), self._serve, wire)
        elif self._writes and not wire.unwritten:
            self._writes = False
            self.loop.remove_writer(wire.fileno())
            self._pump()

    def _leave(self, wire: Wire) -> None:
        """A wire is over: everything that was on it has to be restored."""
        self._is_live = False
        self._lost_at = time.monotonic()
        was_attached = wire is self.wire
        self.wire = None
        if was_attached:
            self.loop.remove_reader(wire.fileno())
            self.loop.remove_writer(wire.fileno())
            self._writes = False
        monitor.forget(wire)
        if self.is_closed:
            self.supervisor.released(wire)
            wire.sever("closed")
        else:
            self.supervisor.lost(wire, str(wire.lost))
        with wire.guard:
            wire.is_polled = False
            wire.close()
        lost = wire.lost
        assert lost is not None
        self.suspects.lost(accused=lost.is_verdict)
        alone = [channel for channel in self.channels.values() if channel.is_alone]
        for channel in list(self.channels.values()):
            channel.link_lost(lost, alone=channel in alone)
        if alarms.is_over_with_its_wire(wire, self.supervisor):
            self.on_blocked(alarms.OVER)
        self.changed()

    def _on_blocked(self, method_frame: Any) -> None:
        if self.wire is not None:
            alarms.note(method_frame, self.wire, self.supervisor)
            self.on_blocked(method_frame)

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Say goodbye to the broker, for at most `GOODBYE`; every waiting call ends."""
        wire = self.wire if self.is_live else None
        self.is_closed = True
        self.changed()
        try:
            if wire is not None:
                with self.writing(wire):
                    wire.say_goodbye(200, "closed")
                with contextlib.suppress(LinkLost):
                    moment = time.monotonic() + GOODBYE
                    await self.answered(wire, lambda: wire.is_closed, moment)
        finally:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))

    def _shut(self) -> None:
        """Whatever ends the keeper, its application's loop included."""
        self.is_closed = True
        for channel in list(self.channels.values()):
            channel.gave_up(ConnectionLost(CLOSED))
        self.changed()
        self.supervisor.detach(self)
        self.supervisor.close()


def _report_a_bug(keeper: asyncio.Task[None]) -> None:
    """Nothing but the end of the connection should end it."""
    if not keeper.cancelled() and keeper.exception() is not None:
        logger.error("a bug in understudy: the connection ends", exc_info=keeper.exception())
