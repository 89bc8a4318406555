"""Control: the one loop that feeds the node's machine and does what it says.

Rules
* One thread decides. What may block runs elsewhere and answers through the inbox: the lock, health
  checks, hooks and the stamp, the board. The driver never blocks.
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
from typing import Protocol, TypeAlias

from understudy.errors import ConfigurationError
from understudyd.api.page import Snapshot
from understudyd.board.port import Answer, Board, Request
from understudyd.config.model import Group, Node
from understudyd.drivers.port import Driver, Reign
from understudyd.guard.words import Dead, Exited
from understudyd.health.port import Health, HealthCheck
from understudyd.lock.keeper import Keeper
from understudyd.lock.port import LockBackend
from understudyd.lock.words import Extend, Read, Swap, Tick
from understudyd.sidecar import view
from understudyd.sidecar.billboard import PERIOD, Billboard, News
from understudyd.sidecar.locker import Locker
from understudyd.sidecar.node import Machine
from understudyd.sidecar.preparer import follow, prepare
from understudyd.sidecar.words import (
    Action,
    Asked,
    Check,
    Checked,
    Close,
    Demote,
    Event,
    Follow,
    Kill,
    Launch,
    Note,
    Peers,
    Prepare,
    Prepared,
    Quit,
    Reply,
    Say,
    Slept,
)
from understudyd.sidecar.worker import Inbox, Worker
from understudyd.status import HistoryEntry, stamp

__all__ = ["Control", "Face", "Reload"]

LONGEST = 3600.0  # s of one wait
NAP = 0.5  # s that the clocks may differ more than before


class Reload:
    """Read the configuration again."""


Word: TypeAlias = Event | News | Reload


class Face(Protocol):
    """The API's end in control: a place to show things, and orders that come from there."""

    def fileno(self) -> int: ...

    def orders(self) -> list[Request | Reload]:
        """What was asked since the last call; never waits."""

    def answer(self, request: Request | Reload, answer: Answer) -> None: ...

    def publish(self, snapshot: Snapshot) -> None: ...

    def beat(self, deadline: float, token: int) -> None: ...


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Control:
    def __init__(
        self,
        group: Group,
        node: Node,
        *,
        instance: str,
        backend: LockBackend,
        driver: Driver,
        check: HealthCheck,
        board: Board,
        log: logging.Logger,
        chance: random.Random,
    ) -> None:
        self.inbox: Inbox[Word] = Inbox()
        keeper = Keeper(group.name, node.name, instance, group.timings, api=str(node.api))
        self.machine = Machine(group, node, keeper, chance)
        self._driver = driver
        self._check = check
        self._log = log
        self._locker = Locker(backend, self.inbox.put)
        self._billboard = Billboard(board, self.inbox.put)
        self._preparing = Worker("understudy-promotion")
        self._checking = Worker("understudy-health")
        self._following = Worker("understudy-hooks")
        self._news = News()
        self._look_at = -math.inf
        self._offset = self._clock_offset()
        self._quit: Quit | None = None

    def run(self) -> Quit:
        """Until it is over; returns why. Raises OSError when the guards can't be started."""
        with selectors.DefaultSelector() as selector:
            self._driver.start()
            selector.register(self.inbox, selectors.EVENT_READ)
            selector.register(self._driver, selectors.EVENT_READ)
            while self._quit is None:
                due = min(self.machine.due, self._look_at)
                selector.select(min(max(0.0, due - now()), LONGEST))
                self._turn()
        return self._quit

    def close(self) -> None:
        self._driver.close()
        self._locker.close()
        self.inbox.close()

    # --- events ---------------------------------------------------------------------------------

    def _turn(self) -> None:
        offset = self._clock_offset()
        if offset > self._offset + NAP:
            self._feed(Slept(offset - self._offset))
        self._offset = offset
        for event in self._driver.events():
            self._feed(event)
        for word in self.inbox.take():
            if isinstance(word, News):
                self._take_news(word)
            elif isinstance(word, Reload):
                self._reload()
            else:
                self._feed(word)
        self._feed(Tick())
        if now() >= self._look_at:
            self._look_at = now() + PERIOD
            self._billboard.look(view.member(self.machine, now()))

    def _feed(self, event: Event) -> None:
        for action in self.machine.receive(event, now()):
            self._do(action)

    def _take_news(self, news: News) -> None:
        if news.trouble != self._news.trouble:
            text = f"the board can't be reached: {news.trouble}" if news.trouble else "board: ok"
            self._log.warning(text)
        self._news = news
        self._feed(Peers(news.members))
        for request in news.requests:
            self._feed(Asked(request))

    def _reload(self) -> None:
        raise NotImplementedError

    def _clock_offset(self) -> float:
        return now() - time.clock_gettime(time.CLOCK_MONOTONIC)

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
                self._prepare(action)
            case Check(number):
                self._ask_health(number)
            case _:
                self._tell(action)

    def _tell(self, action: Action) -> None:
        match action:
            case Follow(hook, reign):
                self._follow(hook, reign)
            case Note(token, role, cause, took_s):
                name, at = self.machine.node.name, stamp(time.time())
                entry = HistoryEntry(token, name, role, at, cause, round(took_s, 3))
                self._billboard.note(entry)
                self._look_at = -math.inf
            case Reply(request, answer):
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
            except (OSError, ConfigurationError) as error:
                cause = str(error)
        if cause:
            self.inbox.put(Exited(order.reign.token, 1, cause))
            self.inbox.put(Dead(order.reign.token, 0.0, cause=cause))

    def _prepare(self, order: Prepare) -> None:
        group, node = self.machine.group, self.machine.node

        def job() -> None:
            self.inbox.put(prepare(group, node, order, self._log.warning))

        if not self._preparing.do(job):
            veto = "the hook or the stamp of an earlier promotion has not come back"
            self.inbox.put(Prepared(order.reign.token, veto))

    def _ask_health(self, number: int) -> None:
        check, timeout = self._check, self.machine.node.broker.health.timeout

        def job() -> None:
            self.inbox.put(Checked(number, check.check(timeout)))

        if not self._checking.do(job):
            stuck = Health(False, "an earlier health check has not come back")
            self.inbox.put(Checked(number, stuck))

    def _follow(self, hook: str, reign: Reign) -> None:
        group, node = self.machine.group, self.machine.node
        if hook not in group.hooks:
            return

        def job() -> None:
            follow(group, node, hook, reign, self._log.warning)

        if not self._following.do(job):
            self._log.warning(f"the hook {hook} was left out: the one before has not ended")


def new_instance() -> str:
    """Names one life of one sidecar."""
    return uuid.uuid4().hex
