"""Control: the one loop that feeds the node's machine and does what it says.

Rules
* One thread decides. What may block runs elsewhere and answers through the inbox: the lock, health
  checks, hooks and the stamp, the board, the configuration. The driver never blocks.
* The broker is started only after another look at the clock: the machine decided a moment ago.
* Whatever goes wrong in here ends this process, and with it the broker: the guards see to that.
* The clock is CLOCK_BOOTTIME, which nobody sets and which goes on while the machine sleeps. When it
  runs ahead of CLOCK_MONOTONIC the machine did sleep.
"""

from __future__ import annotations

import logging
import math
import random
import selectors
import time
import uuid
from collections.abc import Callable, Container
from dataclasses import replace
from typing import TypeAlias

from understudy.errors import UnderstudyError
from understudyd.api.page import BEAT
from understudyd.api.words import Order
from understudyd.board.port import Board
from understudyd.clock import now
from understudyd.drivers.port import Driver
from understudyd.guard.words import Dead, Exited
from understudyd.lock.keeper import Keeper
from understudyd.lock.port import LockBackend
from understudyd.lock.words import Extend, Failed, Read, Seen, Swap, Tick
from understudyd.sidecar import view
from understudyd.sidecar.billboard import PERIOD, Billboard, News
from understudyd.sidecar.counts import Counts
from understudyd.sidecar.errands import Errands
from understudyd.sidecar.face import Face
from understudyd.sidecar.handover import Handover
from understudyd.sidecar.legacy import Legacy
from understudyd.sidecar.locker import Locker
from understudyd.sidecar.memory import Scales, Weighed
from understudyd.sidecar.node import Machine
from understudyd.sidecar.orders import Orders
from understudyd.sidecar.reread import Reread, Rereader
from understudyd.sidecar.settings import Settings, check_reload
from understudyd.sidecar.tidings import LateClaim, Outage
from understudyd.sidecar.trial import Trial
from understudyd.sidecar.words import (
    Action,
    Asked,
    Check,
    Close,
    Demote,
    Event,
    Follow,
    Kill,
    Launch,
    Note,
    Peers,
    Prepare,
    Quit,
    Reply,
    Say,
    Slept,
    Stop,
)
from understudyd.sidecar.worker import Inbox
from understudyd.status import HistoryEntry, stamp
from understudyd.systemd import notify, notify_alive, notify_reloading

__all__ = ["ApiIsUp", "Control", "Reload", "Replace", "Word", "new_instance"]

LONGEST = 3600.0  # s of one wait
GUARDS = 1.0  # s between two signs of life that the guards are asked for
SHOWN = 1.0  # s until ages and counts are shown to the API again, and what else is true still
PATIENT = 0.25  # s that a look at the board waits for something else to be awake for
NAP = 0.5  # s that the clocks may differ more than before


class Reload:
    """Read the configuration again."""


class Replace:
    """Give this process to the sidecar that is installed by now; the broker runs on."""


class ApiIsUp:
    """The API process was started again."""


Word: TypeAlias = Event | News | Reload | Replace | Trial | ApiIsUp | Weighed | Reread


class Control:
    def __init__(
        self,
        settings: Settings,
        *,
        inbox: Inbox[Word],
        instance: str,
        backend: LockBackend,
        driver: Driver,
        board: Board,
        face: Face,
        reread: Callable[[bytes | None], Settings],
        try_out: Callable[[], Trial],
        log: logging.Logger,
        chance: random.Random,
        legacy: Legacy | None = None,
    ) -> None:
        """``instance`` names this life of this sidecar. ``reread``, of the file or of what was in
        it, and ``try_out``, before this sidecar is replaced, may block. ``legacy``: what the one
        before has left, with whose instance it goes on."""
        group, node = settings.group, settings.node
        self._inbox = inbox
        self._locker = Locker(backend, self._inbox.put)
        us, api, is_told = (group.name, node.name, instance), str(node.api), self._locker.is_told
        keeper = Keeper(*us, group.timings, api=api, is_told=is_told)
        self.machine = Machine(group, node, keeper, chance)
        self._settings = settings
        self._driver = driver
        self._face = face
        self._rereader = Rereader(lambda: reread(None), inbox.put)
        self._log = log
        self._billboard = Billboard(board, self._hear_of_board)
        self._orders = Orders(face.answer)
        self._errands = Errands(settings, self._inbox.put, log)
        self._scales = Scales(self._inbox.put)
        self._lock_outage, self._board_outage = Outage("the lock"), Outage("the board")
        self._news = News()
        self._counts = Counts()
        self._counts.set("kill_limit_seconds", group.timings.kill)
        self._look_at = self._beat_at = self._guards_at = self._shown_at = -math.inf
        self._shown: object = None
        self._offset = _clock_offset()
        self._late_claim = LateClaim()
        self._quit: Quit | None = None
        self._legacy = legacy
        self._handover = Handover(
            self.machine,
            driver,
            self._locker,
            face,
            self._errands,
            inbox,
            try_out=try_out,
            check_reload=lambda content: check_reload(self._settings, reread(content)),
            log=log,
        )

    def run(self) -> Quit:
        """Until it is over; returns why. Raises UnderstudyError when the guards don't start."""
        with selectors.DefaultSelector() as self._selector:
            self._handover.begin(self._legacy)
            self._selector.register(self._inbox, selectors.EVENT_READ)
            self._selector.register(self._driver, selectors.EVENT_READ)
            self._watch_api()
            while self._quit is None:
                due = min(self.machine.due, self._look_at + PATIENT, self._beat_at)
                ready = self._selector.select(min(max(0.0, due - now()), LONGEST))
                self._turn({key.fileobj for key, _ in ready})
                api = self._face.fileno()
                if self._handover.turn():
                    self._feed(Stop())
                self._unwatch_api(api)
        return self._quit

    def close(self) -> None:
        """End the guards, and the broker if one lives; tell the others."""
        self._driver.close()
        if self._quit is not None:
            gone = replace(view.member(self.machine, now()), healthy=False, state="stopped")
            self._billboard.farewell(gone)

    @property
    def next_configuration(self) -> bytes | None:
        """To begin anew with after the end, in the same process; None: not to."""
        return self._handover.configuration if self._handover.is_to_begin_anew else None

    # --- events ---------------------------------------------------------------------------------

    def _turn(self, ready: Container[object]) -> None:
        offset = _clock_offset()
        if offset > self._offset + NAP:
            self._feed(Slept(offset - self._offset))
        self._offset = offset
        if self._driver in ready or now() >= self._guards_at:
            for event in self._driver.events():
                self._feed(event)
        for word in self._inbox.take():
            self._hear(word)
        self._take_orders()
        if now() >= self.machine.due:
            self._feed(Tick())
        self._show()

    def _hear(self, word: Word) -> None:
        if isinstance(word, News):
            self._take_news(word)
        elif isinstance(word, Reload):
            self._reload()
        elif isinstance(word, Reread):
            self._take_settings(word)
        elif isinstance(word, Replace):
            self._handover.ask()
        elif isinstance(word, Trial):
            self._handover.hear(word)
        elif isinstance(word, Weighed):
            self._warn(self.machine.kill_time.sample(word.memory))
            self._counts.set("kill_estimate_seconds", self.machine.kill_time.estimate)
        elif isinstance(word, Stop):
            self._handover.give_up()
            self._feed(word)
        elif isinstance(word, ApiIsUp):
            self._face.came_up()
            self._watch_api()
        else:
            if isinstance(word, (Seen, Failed)):
                self._warn(self._lock_outage.hear(word.cause if isinstance(word, Failed) else ""))
            self._feed(word)
            is_late = self.machine.keeper.is_late(now())
            self._warn(self._late_claim.hear(is_late, self.machine.group.timings.budget))

    def _feed(self, event: Event) -> None:
        self._counts.hear(event, now())
        for action in self.machine.receive(event, now()):
            self._counts.see(action, now())
            self._do(action)
        if isinstance(event, Seen) and self.machine.is_held_by_another:
            self._locker.wait_for_change(self.machine.group.timings.look)

    def _hear_of_board(self, news: News) -> None:
        """In the board's thread: what is as before is taken in when there is more to do."""
        self._inbox.put(news, can_wait=news.is_as_expected(self._news))

    def _take_news(self, news: News) -> None:
        self._warn(self._board_outage.hear(news.trouble))
        self._counts.add("board_failures_total", bool(news.trouble))
        self._news = news
        self._orders.look(news.requests)
        for entry in news.history:  # the lock's record may be lost while no node was there
            self.machine.keeper.learn(entry.token)
        self._feed(Peers(news.members))
        for request in (*news.requests, *self._orders.new()):
            self._feed(Asked(request))

    def _reload(self, order: Order | None = None) -> None:
        notify_reloading()
        self._rereader.ask(order)
        if not self._rereader.go_on(self._settings):
            self._log.warning("the configuration is being read already; once more after that")

    def _take_settings(self, word: Reread) -> None:
        if word.settings is None:
            self._log.error(f"reload refused, everything stays as it is: {word.trouble}")
        else:
            self._configure(word.settings)
        for order in word.orders:
            self._face.answer(order, 409 if word.trouble else 202, word.trouble)
        self._rereader.go_on(self._settings)
        notify("READY=1")

    def _configure(self, wanted: Settings) -> None:
        self._settings = wanted
        self.machine.configure(wanted.group, wanted.node)
        self._errands.configure(wanted)
        self._driver.configure(wanted.node.broker)
        self._face.configure(wanted)
        self._feed(Tick())
        self._log.info("configuration reloaded")

    # --- the API --------------------------------------------------------------------------------

    def _watch_api(self) -> None:
        descriptor = self._face.fileno()
        if descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ)

    def _unwatch_api(self, before: int | None) -> None:
        if before is not None and self._face.fileno() is None:
            self._selector.unregister(before)

    def _take_orders(self) -> None:
        descriptor = self._face.fileno()
        orders = self._face.orders()
        self._unwatch_api(descriptor)
        for order in orders:
            self._log.info(f"asked by {order.by}: {order.command} {order.to or ''}".rstrip())
            if order.command == "reload":
                self._reload(order)
                continue
            self._billboard.ask(self._orders.take(order))
            self._look_at = -math.inf  # it is judged by what the board shows then

    def _show(self) -> None:
        moment = now()
        if moment >= self._look_at:
            self._look_at = moment + PERIOD
            self._billboard.look(view.member(self.machine, moment))
        self._face.beat(*view.lease(self.machine))
        urgent = view.urgent(self.machine, moment), self._news
        if urgent != self._shown or moment >= self._shown_at + SHOWN:
            shown = view.snapshot(self.machine, moment, self._news, self._counts.values)
            self._face.publish(shown)
            self._shown, self._shown_at = urgent, moment
        self._beat_at = moment + BEAT
        if moment >= self._guards_at:
            self._guards_at = moment + GUARDS
            self._driver.beat()
            notify_alive()
            self._scales.weigh(self.machine.tenure.pid, moment)

    # --- actions --------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        match action:
            case Read() | Swap():
                self._locker.attempt(action)
            case Extend(deadline):
                self._driver.extend(deadline)
            case Close():
                self._locker.close()
                self._driver.over()
            case Launch():
                self._launch(action)
            case Demote(until):
                self._driver.demote(until)
            case Kill(cause):
                self._driver.fence(cause)
            case Prepare():
                self._errands.prepare(action)
            case Check(number):
                self._errands.check(number)
            case _:
                self._tell(action)

    def _tell(self, action: Action) -> None:
        match action:
            case Follow(hook, reign):
                self._errands.follow(hook, reign)
            case Note(token, role, cause, took_s):
                name, at = self.machine.node.name, stamp(time.time())
                entry = HistoryEntry(token, name, role, at, cause, round(took_s, 3))
                self._billboard.note(entry)
                self._look_at = -math.inf
            case Reply(request, answer):
                if answer.code != 202:
                    self._log.info(f"{request.command} refused: {answer.reason}")
                self._orders.answer(request, answer)
                self._billboard.reply(request, answer)
                self._look_at = -math.inf
            case Say(level, text):
                self._log.log(level, text)
            case Quit():
                self._quit = action

    def _launch(self, order: Launch) -> None:
        cause = ""
        if now() >= order.deadline:
            cause = "the lease was over before it could be started"
        else:
            try:
                self._driver.promote(order.reign, order.deadline, self._locker.descriptors)
            except (OSError, UnderstudyError) as error:
                cause = str(error)
        if cause:
            self._inbox.put(Exited(order.reign.token, 1, cause))
            self._inbox.put(Dead(order.reign.token, 0.0, cause=cause))

    def _warn(self, trouble: str) -> None:
        if trouble:
            self._log.warning(trouble)


def _clock_offset() -> float:
    return now() - time.clock_gettime(time.CLOCK_MONOTONIC)


def new_instance() -> str:
    """Names one life of one sidecar."""
    return uuid.uuid4().hex
