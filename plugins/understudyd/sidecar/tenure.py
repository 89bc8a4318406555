"""The tenure: one broker of this node, from the lock's being ours to its being let go. Pure; one
table.

Rules
* The keeper alone knows whether the lock is ours. What belongs to an earlier token is not listened
  to.
* Promotion: the lock is ours -> fence the old holder, stamp the stores, pre_promote, which may veto
  -> start the broker -> healthy -> master. Demotion: no master any more -> clean stop while there
  is time, or kill at once -> dead and reaped -> let the lock go.
* A broker that can't be killed, or of which nothing is heard, keeps its lock: renewals go on, and
  so does the alarm.
* Exclusion goes before everything, a pause too: who loses the lock loses the broker. What a pause
  does stop is to hand over for an ill broker; that is made up for when it is over.
* A reign that ends badly keeps this node out for a while, twice as long each time, until one lasts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from understudyd.config.model import Group, Node
from understudyd.drivers.port import Reign
from understudyd.guard.words import Dead, Exited, Fencing, GuardLost, Started
from understudyd.lock import words as lock
from understudyd.lock.keeper import Keeper, State
from understudyd.sidecar.checks import Checks
from understudyd.sidecar.penalty import Penalty
from understudyd.sidecar.phase import BOUNDED, LIVING, Phase
from understudyd.sidecar.sight import Sight
from understudyd.sidecar.tidings import Illness
from understudyd.sidecar.words import (
    Action,
    Checked,
    Close,
    Demote,
    Event,
    Follow,
    Kill,
    Launch,
    Note,
    Prepare,
    Prepared,
    say,
)
from understudyd.status import Role

__all__ = ["STAMPING", "Tenure"]

STAMPING = 5.0  # s to stamp the stores
GRACE = 1.0  # s beyond their own limits until hooks count as unanswered
SILENCE = 5.0  # s beyond the limit of stop or kill; a guard that stands still is replaced after 3


class Tenure:
    def __init__(self, group: Group, node: Node, keeper: Keeper, penalty: Penalty) -> None:
        self.phase = Phase.STANDBY
        self.group = group
        self.node = node
        self.keeper = keeper
        self.penalty = penalty
        self.checks = Checks()
        self.sight = Sight()
        self.pid: int | None = None
        self.is_paused = False
        self.alarm = ""  # STUCK: what is wrong, for people
        self.could_not_fence = False
        self._permit = lock.Permit(False)
        self._token = 0
        self._cause = ""  # of the change under way
        self._noticed = 0.0
        self._is_clean = False  # how the reign is to end
        self._crash = ""  # how the broker ended by itself
        self._illness = Illness()
        self.ill = ""  # MASTER and paused: what would have been a reason to hand over
        self._until = math.inf  # when a phase of `BOUNDED` has taken too long

    @property
    def due(self) -> float:
        """When to feed `Tick` at the latest."""
        moments = [self.keeper.due]
        if self.phase in BOUNDED:
            moments.append(self._until)
        if self.phase in (Phase.STARTING, Phase.MASTER):
            moments.append(self.checks.due)
        if self.phase is Phase.STOPPING:
            moments.append(self.keeper.deadline)
        return min(moments)

    def adopt(self, pid: int, since: float, ill: str, now: float) -> None:
        """Go on as master with a broker of an earlier sidecar's, by a keeper that has its reign."""
        assert self.keeper.record is not None
        self.phase = Phase.MASTER
        self._token, self.pid = self.keeper.record.token, pid
        self.penalty.begin()
        self.penalty.succeed(since)
        self.checks.begin(now)
        self.ill = ill
        self.checks.is_healthy = not ill

    def permit(self, permit: lock.Permit, now: float) -> list[Action]:
        """Whether the next tenure may begin, and how late."""
        if permit == self._permit or self.phase not in (Phase.STANDBY, Phase.RELEASING):
            return []
        self._permit = permit
        return self._feed(permit, now)

    def receive(self, event: Event, now: float) -> list[Action]:
        """Take in what the lock, the broker or the clock has told; return what to do, in order."""
        if isinstance(event, _OF_THE_KEEPER):
            return self._feed(event, now)
        return self._handle(event, now)

    def go_on(self, now: float) -> list[Action]:
        """What time has brought; to be asked after every event."""
        if self.phase is Phase.PREPARING and now >= self._until:
            return self.step_down("the store or a hook did not answer in time", now, is_bad=True)
        if self.phase is Phase.STARTING and now >= self._until:
            limit = self.node.broker.start_timeout
            text = f"the broker was not healthy within {limit:g} s: {self.checks.detail}"
            return self.step_down(text, now, is_bad=True)
        if self.phase in (Phase.STARTING, Phase.MASTER):
            return self._look_after(now)
        if self.phase is Phase.STOPPING and now >= self.keeper.deadline:
            return self._kill("the lease is over", now)
        if self.phase is Phase.STOPPING and now >= self._until:
            return self._kill("it is not heard to have stopped", now)
        if self.phase is Phase.FENCING and now >= self._until:
            return self._stick("it is not heard that the broker is dead")
        return []

    def step_down(
        self, cause: str, now: float, *, heir: str = "", clean: bool = False, is_bad: bool = False
    ) -> list[Action]:
        """End it, if there is one; ``is_bad``: this node is to sit out for a while."""
        self._is_clean = clean
        if is_bad:
            self.penalty.sit_out(now)
        self._permit = lock.Permit(False)
        return self._feed(self._permit, now) + self._feed(lock.Step(cause, heir), now)

    def pause(self, is_paused: bool, now: float) -> list[Action]:
        """From now on an ill broker is left as it is; or is no longer, and it may be ill by now."""
        self.is_paused = is_paused
        if is_paused or not self.ill or self.phase is not Phase.MASTER:
            return []
        return self.step_down(self.ill, now, is_bad=True)

    # --- the keeper -----------------------------------------------------------------------------

    def _feed(self, event: lock.Event, now: float) -> list[Action]:
        actions: list[Action] = []
        for action in self.keeper.receive(event, now):
            if isinstance(action, lock.Swap) and self.keeper.state is State.CLAIMING:
                self.sight.claim(action)
            if isinstance(action, lock.Read | lock.Swap):
                actions.append(action)
            else:
                actions += self._handle(action, now)
        return actions

    def _handle(self, event: Any, now: float) -> list[Action]:
        handler = _TABLE[type(event)].get(self.phase)
        is_stale = getattr(event, "token", self._token) != self._token
        if handler is None or (is_stale and not isinstance(event, lock.Promote)):
            return []
        return handler(self, event, now)

    def _promoted(self, event: lock.Promote, now: float) -> list[Action]:
        assert self.keeper.record is not None
        self.phase = Phase.PREPARING
        self._token, self._cause, self._noticed = event.token, event.cause, now
        self._is_clean = False
        self.ill = self._crash = ""
        hooks = [self.group.hooks[name] for name in _BEFORE if name in self.group.hooks]
        self._until = now + STAMPING + GRACE + sum(hook.timeout for hook in hooks)
        return [
            say(f"the lock is ours, token {event.token}: {event.cause}"),
            Prepare(self._reign, self.sight.doubtful, STAMPING, self.keeper.record.instance),
        ]

    def _extended(self, event: lock.Extend, _: float) -> list[Action]:
        return [event]

    def _refused(self, event: lock.Refuse, _: float) -> list[Action]:
        return [say(f"can't take part: {event.cause}", logging.ERROR)]

    def _fence(self, event: lock.Fence, now: float) -> list[Action]:
        self._notice(event, now)
        if not self._is_clean or event.is_lost:
            return self._kill(event.cause, now)
        self.phase = Phase.STOPPING
        limit = self.node.broker.stop_timeout
        self._until = now + limit + self._patience
        return [
            say(f"stopping the broker, {limit:g} s at most: {event.cause}"),
            Demote(now + limit),
        ]

    @property
    def _patience(self) -> float:
        """s, from the order to kill until the silence is an alarm."""
        fence = self.node.broker.fence
        return SILENCE + (fence.timeout if fence else self.group.timings.kill)

    def _kill(self, cause: str, now: float) -> list[Action]:
        self.phase = Phase.FENCING
        self._until = now + self._patience
        return [say(f"killing the broker: {cause}", logging.WARNING), Kill(cause)]

    def _notice(self, event: lock.Fence, now: float) -> list[Action]:
        self._cause, self._noticed = event.cause, now
        return []

    def _nothing_to_kill(self, event: lock.Fence, now: float) -> list[Action]:
        return self._notice(event, now) + self._reaped(now)

    def _reaped(self, now: float) -> list[Action]:
        """No broker of ours lives."""
        self.phase = Phase.RELEASING
        self.pid = None
        self.alarm = ""
        self.checks.end()
        return self._feed(lock.Fenced(), now)

    def _released(self, _: lock.Released, now: float) -> list[Action]:
        was, self.phase = self.phase, Phase.STANDBY
        if was is Phase.STANDBY:
            return [Close()]
        took = now - self._noticed
        return [
            Close(),
            say(f"standby after {took:.3f} s: {self._cause}"),
            Note(self._token, Role.STANDBY, self._cause, took),
            Follow("post_demote", self._reign),
        ]

    # --- the broker -----------------------------------------------------------------------------

    def _prepared(self, event: Prepared, now: float) -> list[Action]:
        self.keeper.learn(event.known)
        if event.veto:
            # a higher token is all that it takes, where there is one
            is_outdated = event.token <= event.known <= self.keeper.highest_token
            return self.step_down(event.veto, now, is_bad=not is_outdated)
        self.penalty.begin()
        return [say("starting the broker"), self._launch(now)]

    def _launch(self, now: float) -> Action:
        self.phase = Phase.STARTING
        self._illness = Illness()
        self._until = now + self.node.broker.start_timeout
        self.checks.end()
        return Launch(self._reign, self.keeper.deadline)

    def _started(self, event: Started, now: float) -> list[Action]:
        self.pid = event.pid
        self.checks.begin(now)
        return []

    def _exited(self, event: Exited, now: float) -> list[Action]:
        self._crash = f"the broker ended: {event.how}"
        self.checks.end()
        return [say(self._crash, logging.WARNING)]  # Dead follows

    def _died(self, event: Dead, now: float) -> list[Action]:
        """It was not told to: it crashed, its deadline passed, or the guard was lost."""
        self.checks.end()
        self.pid = None
        cause = self._crash or f"the broker was killed: {event.cause}"
        self._crash = ""
        if event.left:
            return self._dead(event, now) + self.step_down(cause, now, is_bad=True)
        if self.phase is Phase.MASTER and self.is_paused:
            return self._put_off(cause)
        allowed = self.node.broker.local_restarts
        number = self.penalty.restart(now, allowed)
        if number:
            return [
                say(f"restart in place {number} of {allowed}", logging.WARNING),
                self._launch(now),
            ]
        self.phase = Phase.RELEASING
        return self.step_down(cause, now, is_bad=True)

    def _dead(self, event: Dead, now: float) -> list[Action]:
        if event.left:
            return self._stick(f"{', '.join(event.left)} can't be killed")
        has_obeyed = self.phase is Phase.STOPPING
        how = "has ended" if has_obeyed else f"is dead after {event.took_s:.3f} s"
        return [say(f"the broker {how}"), *self._reaped(now)]

    def _stick(self, why: str) -> list[Action]:
        self.phase = Phase.STUCK
        self.could_not_fence = True
        self.alarm = f"FENCING FAILED, the lock is kept: {why}"
        return [say(self.alarm, logging.CRITICAL)]

    def _guard_lost(self, event: GuardLost, _: float) -> list[Action]:
        return [say(f"a guard was lost: {event.cause}", logging.WARNING)]

    # --- health ---------------------------------------------------------------------------------

    def _first_checked(self, event: Checked, now: float) -> list[Action]:
        told = self._complain(event) if self._take_health(event, now) else []
        if not self.checks.is_healthy:
            return told
        self.phase = Phase.MASTER
        self.penalty.succeed(now)
        took = now - self._noticed
        return [
            say(f"master after {took:.3f} s: {event.health.detail}"),
            Note(self._token, Role.MASTER, self._cause, took),
            Follow("post_promote", self._reign),
        ]

    def _checked(self, event: Checked, now: float) -> list[Action]:
        was_healthy = self.checks.is_healthy
        if not self._take_health(event, now):
            return []
        if self.checks.is_healthy:
            self.ill = ""
            return self._complain(event)
        cause = f"the broker is ill: {event.health.detail}"
        if not self.is_paused:
            return self.step_down(cause, now, is_bad=True)
        return self._put_off(cause) if was_healthy else []

    def _take_health(self, event: Checked, now: float) -> bool:
        return self.checks.answer(event, now, self.node.broker.health)

    def _complain(self, event: Checked) -> list[Action]:
        text = self._illness.hear(event.health)
        return [say(text)] if text else []

    def _put_off(self, cause: str) -> list[Action]:
        """A reason to hand over, while paused."""
        self.ill = cause
        return [say(f"{cause}; nothing is done about it while paused", logging.WARNING)]

    def _look_after(self, now: float) -> list[Action]:
        word = self.checks.turn(now, self.node.broker.health)
        if isinstance(word, Checked):
            return self._handle(word, now)
        return [] if word is None else [word]

    @property
    def _reign(self) -> Reign:
        record = self.keeper.record
        return Reign(self._token, record.incarnation if record else "")


_BEFORE = ("fence", "pre_promote")  # hooks that promotion waits for
_OF_THE_KEEPER = (lock.Seen, lock.Failed, lock.Hint, lock.Tick)

Handler: TypeAlias = Callable[[Tenure, Any, float], list[Action]]


def _in(handler: Handler, *phases: Phase) -> dict[Phase, Handler]:
    return dict.fromkeys(phases or tuple(Phase), handler)


_TABLE: dict[type, dict[Phase, Handler]] = {
    # of the keeper
    lock.Promote: _in(Tenure._promoted, Phase.STANDBY),
    lock.Extend: _in(Tenure._extended, *LIVING),
    lock.Fence: _in(Tenure._fence, Phase.STARTING, Phase.MASTER, Phase.STOPPING)
    | _in(Tenure._notice, Phase.STUCK)
    | _in(Tenure._nothing_to_kill, Phase.PREPARING, Phase.RELEASING),
    lock.Released: _in(Tenure._released),
    lock.Refuse: _in(Tenure._refused),
    # of the broker
    Prepared: _in(Tenure._prepared, Phase.PREPARING),
    Started: _in(Tenure._started, Phase.STARTING),
    Exited: _in(Tenure._exited, Phase.STARTING, Phase.MASTER),
    Fencing: {},
    GuardLost: _in(Tenure._guard_lost),
    Dead: _in(Tenure._died, Phase.STARTING, Phase.MASTER)
    | _in(Tenure._dead, Phase.STOPPING, Phase.FENCING, Phase.STUCK),
    Checked: {Phase.STARTING: Tenure._first_checked, Phase.MASTER: Tenure._checked},
}
