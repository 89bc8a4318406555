"""The node: what becomes of one broker. Pure: events and `now` in, actions out; one table.

Rules
* The keeper alone knows whether the lock is ours. Every event is preceded by a look at the clock,
  so that nothing is begun after the deadline; what belongs to an earlier token is not listened to.
* Promotion: the lock is ours -> fence the old holder, stamp the store, pre_promote, which may veto
  -> start the broker -> healthy -> master. Demotion: no master any more -> clean stop while there
  is time, or kill at once -> dead and reaped -> let the lock go.
* A broker that can't be killed keeps its lock: renewals go on, and so does the alarm.
* Exclusion goes before everything, a pause too: who loses the lock loses the broker. What a pause
  does stop is what the nodes would do by themselves: campaign, and hand over for an ill broker.
* A switchover asks first whether the candidate can be master, and touches the master after that.
* A reign that ends badly keeps this node out for a while, twice as long each time, until one lasts.

==============  ===============================================================================
phase           means
==============  ===============================================================================
STANDBY         without the lock; campaigns if it may
PREPARING       the lock is ours; hooks and stamp
STARTING        the broker was told to start and has not been healthy yet
MASTER          the broker was healthy
STOPPING        it is to stop cleanly
FENCING         it is being killed
STUCK           it can't be killed
RELEASING       it is dead; the tombstone is being written
==============  ===============================================================================
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeAlias

from understudyd.board.port import Answer, Request
from understudyd.config.model import Group, Node
from understudyd.drivers.port import Reign
from understudyd.guard.words import Dead, Exited, Fencing, GuardLost, Started
from understudyd.health.port import Health
from understudyd.lock import words as lock
from understudyd.lock.keeper import Keeper, State
from understudyd.lock.port import Observation
from understudyd.sidecar.campaign import Campaign
from understudyd.sidecar.checks import Checks
from understudyd.sidecar.moves import judge
from understudyd.sidecar.penalty import Penalty
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
    Stop,
)
from understudyd.status import Role

__all__ = ["Machine", "Phase"]

STAMPING = 5.0  # s to stamp the store
GRACE = 1.0  # s beyond their own limits until hooks count as unanswered


class Phase(Enum):
    STANDBY = "standby"
    PREPARING = "preparing"
    STARTING = "starting"
    MASTER = "master"
    STOPPING = "stopping"
    FENCING = "fencing"
    STUCK = "fencing_failed"
    RELEASING = "releasing"


class Machine:
    def __init__(self, group: Group, node: Node, keeper: Keeper, chance: random.Random) -> None:
        self.phase = Phase.STANDBY
        self.group = group
        self.node = node
        self.keeper = keeper
        self.is_paused = False
        self.is_stopping = False
        self.checks = Checks()
        self.pid: int | None = None
        self.could_not_fence = False
        self._penalty = Penalty(group.timings.lease, chance)
        self._campaign = Campaign()
        self.seen: Observation | None = None  # what the lock showed last
        self.seen_at = -math.inf
        self._claimed: Observation | None = None  # what our last claim was to replace
        self._permit = lock.Permit(False)
        self._token = 0
        self._cause = ""  # of the change under way
        self._noticed = 0.0
        self._is_clean = False  # how the reign is to end
        self._crash = ""  # how the broker ended by itself
        self._ill = ""  # MASTER and paused: what would have been a reason to hand over
        self._until = math.inf  # when PREPARING or STARTING has taken too long
        self._refused_until = math.inf  # refused at the start: when to end for it
        self._moved = ""  # the last switchover or failover that was answered

    def __repr__(self) -> str:
        return f"<Machine {self.node.name} {self.phase.value} token={self.token}>"

    @property
    def token(self) -> int | None:
        return self.keeper.token

    @property
    def role(self) -> str:
        if self.phase is Phase.MASTER:
            return Role.MASTER
        return Role.STANDBY if self.phase is Phase.STANDBY and not self.is_stopping else Role.NONE

    @property
    def holder(self) -> str | None:
        """Who has the lock, as far as known."""
        record = self.seen.record if self.seen else None
        return None if record is None or record.is_void or record.released else record.holder

    @property
    def is_held_by_another(self) -> bool:
        return self.phase is Phase.STANDBY and self.holder is not None

    def is_ready(self, now: float) -> bool:
        """Whether this standby could be master."""
        is_out = self.keeper.refused or self.is_stopping or now < self._penalty.until
        return self.phase is Phase.STANDBY and not is_out

    @property
    def due(self) -> float:
        """When to feed `Tick` at the latest."""
        moments = [self.keeper.due]
        if self.phase in (Phase.PREPARING, Phase.STARTING):
            moments.append(self._until)
        if self.phase in (Phase.STARTING, Phase.MASTER):
            moments.append(self.checks.due)
        moments.append(self._campaign.due)
        if self.phase is Phase.STOPPING:
            moments.append(self.keeper.deadline)
        if self.phase is Phase.STANDBY and math.isfinite(self._penalty.until):
            moments.append(self._penalty.until)
        return min(moments)

    def receive(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; return what to do, in order."""
        self._campaign.begin(now)
        if isinstance(event, lock.Seen):
            self.seen, self.seen_at = event.observation, now
        actions = self._stand(now) + self._feed(lock.Tick(), now)
        if isinstance(event, _OF_THE_KEEPER):
            actions += self._feed(event, now)
            is_news = isinstance(event, lock.Seen) and self.seen is self.keeper.observation
            if is_news and self.keeper.refused and now >= self._refused_until:
                actions.append(Quit(2, self.keeper.refused))
        else:
            actions += self._handle(event, now)
        return actions + self._settle(now)

    def configure(self, group: Group, node: Node) -> None:
        """Go on with other settings; the group's name, lock and timings stay."""
        self.group = group
        self.node = node

    # --- the keeper -----------------------------------------------------------------------------

    def _feed(self, event: lock.Event, now: float) -> list[Action]:
        actions: list[Action] = []
        for action in self.keeper.receive(event, now):
            if isinstance(action, lock.Swap) and self.keeper.state is State.CLAIMING:
                self._claimed = action.expected
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

    def _stand(self, now: float) -> list[Action]:
        """Tell the keeper whether it may claim the lock, and how late."""
        may = self.is_ready(now) and not self.is_paused
        record = self.seen.record if self.seen else None
        permit = self._campaign.permit(may, self.node, record, now)
        if permit == self._permit or self.phase not in (Phase.STANDBY, Phase.RELEASING):
            return []
        self._permit = permit
        return self._feed(permit, now)

    def _promoted(self, event: lock.Promote, now: float) -> list[Action]:
        assert self.keeper.record is not None
        self.phase = Phase.PREPARING
        self._token, self._cause, self._noticed = event.token, event.cause, now
        self._is_clean = False
        self._ill = self._crash = ""
        hooks = [self.group.hooks[name] for name in _BEFORE if name in self.group.hooks]
        self._until = now + STAMPING + GRACE + sum(hook.timeout for hook in hooks)
        return [
            self._say(f"the lock is ours, token {event.token}: {event.cause}"),
            Prepare(self._reign, self._doubtful()),
        ]

    def _doubtful(self) -> str:
        """Who held the lock before, where nothing but a lease says that its broker is dead."""
        before = self._claimed.record if self._claimed else None
        if before is None or before.is_void or (self._claimed and self._claimed.is_proven_free):
            return ""
        return before.holder

    def _extended(self, event: lock.Extend, _: float) -> list[Action]:
        return [event]

    def _refused(self, event: lock.Refuse, now: float) -> list[Action]:
        patience = self.group.timings.patience
        if now <= self._campaign.began + 2 * patience:
            self._refused_until = now + 1.1 * patience  # a late word of a dead one passes
        return [self._say(f"can't take part: {event.cause}", logging.ERROR)]

    def _fence(self, event: lock.Fence, now: float) -> list[Action]:
        self._cause, self._noticed = event.cause, now
        if not self._is_clean or event.is_lost:
            self.phase = Phase.FENCING
            return self._kill(event.cause)
        self.phase = Phase.STOPPING
        limit = self.node.broker.stop_timeout
        return [
            self._say(f"stopping the broker, {limit:g} s at most: {event.cause}"),
            Demote(now + limit),
        ]

    def _kill(self, cause: str) -> list[Action]:
        return [self._say(f"killing the broker: {cause}", logging.WARNING), Kill(cause)]

    def _nothing_to_kill(self, event: lock.Fence, now: float) -> list[Action]:
        self._cause, self._noticed = event.cause, now
        return self._reaped(now)

    def _reaped(self, now: float) -> list[Action]:
        """No broker of ours lives."""
        self.phase = Phase.RELEASING
        self.pid = None
        self.checks.end()
        return self._feed(lock.Fenced(), now)

    def _released(self, _: lock.Released, now: float) -> list[Action]:
        was, self.phase = self.phase, Phase.STANDBY
        if was is Phase.STANDBY:
            return [Close()]
        took = now - self._noticed
        return [
            Close(),
            self._say(f"standby after {took:.3f} s: {self._cause}"),
            Note(self._token, Role.STANDBY, self._cause, took),
            Follow("post_demote", self._reign),
        ]

    # --- the broker -----------------------------------------------------------------------------

    def _prepared(self, event: Prepared, now: float) -> list[Action]:
        self.keeper.learn(event.known)
        if event.veto:
            is_outdated = event.known > event.token  # a higher token is all that it takes
            return self._step_down(event.veto, now, is_bad=not is_outdated)
        self._penalty.begin()
        return [self._say("starting the broker"), self._launch(now)]

    def _launch(self, now: float) -> Action:
        self.phase = Phase.STARTING
        self._until = now + self.node.broker.start_timeout
        self.checks.end()
        return Launch(self._reign, self.keeper.deadline)

    def _started(self, event: Started, now: float) -> list[Action]:
        self.pid = event.pid
        self.checks.begin(now)
        return []

    def _exited(self, event: Exited, now: float) -> list[Action]:
        self._crash = f"the broker ended: {_how_ended(event)}"
        self.checks.end()
        return [self._say(self._crash, logging.WARNING)]  # Dead follows

    def _died(self, event: Dead, now: float) -> list[Action]:
        """It was not told to: it crashed, its deadline passed, or the guard was lost."""
        self.checks.end()
        self.pid = None
        cause = self._crash or f"the broker was killed: {event.cause}"
        self._crash = ""
        if event.left:
            return self._dead(event, now) + self._step_down(cause, now, is_bad=True)
        if self.phase is Phase.MASTER and self.is_paused:
            self._ill = cause
            return [self._say("nothing is done about it while paused", logging.WARNING)]
        allowed = self.node.broker.local_restarts
        number = 0 if self.is_stopping else self._penalty.restart(now, allowed)
        if number:
            return [
                self._say(f"restart in place {number} of {allowed}", logging.WARNING),
                self._launch(now),
            ]
        self.phase = Phase.RELEASING
        return self._step_down(cause, now, is_bad=True)

    def _dead(self, event: Dead, now: float) -> list[Action]:
        if event.left:
            self.phase = Phase.STUCK
            self.could_not_fence = True
            text = f"FENCING FAILED, the lock is kept: {', '.join(event.left)} can't be killed"
            return [self._say(text, logging.CRITICAL)]
        return [self._say(f"the broker is dead after {event.took_s:.3f} s"), *self._reaped(now)]

    def _guard_lost(self, event: GuardLost, _: float) -> list[Action]:
        return [self._say(f"a guard was lost: {event.cause}", logging.WARNING)]

    def _step_down(
        self, cause: str, now: float, *, heir: str = "", clean: bool = False, is_bad: bool = False
    ) -> list[Action]:
        self._is_clean = clean
        if is_bad:
            self._penalty.sit_out(now)
        self._permit = lock.Permit(False)
        return self._feed(self._permit, now) + self._feed(lock.Step(cause, heir), now)

    # --- health ---------------------------------------------------------------------------------

    def _first_checked(self, event: Checked, now: float) -> list[Action]:
        self._take_health(event, now)
        if not self.checks.is_healthy:
            return []
        self.phase = Phase.MASTER
        self._penalty.succeed(now)
        took = now - self._noticed
        return [
            self._say(f"master after {took:.3f} s: {event.health.detail}"),
            Note(self._token, Role.MASTER, self._cause, took),
            Follow("post_promote", self._reign),
        ]

    def _checked(self, event: Checked, now: float) -> list[Action]:
        was_healthy = self.checks.is_healthy
        if not self._take_health(event, now):
            return []
        if self.checks.is_healthy:
            self._ill = ""
        elif self.is_paused:
            self._ill = f"the broker is ill: {event.health.detail}"
            text = f"{self._ill}; nothing is done about it while paused"
            return [self._say(text, logging.WARNING)] if was_healthy else []
        else:
            return self._step_down(f"the broker is ill: {event.health.detail}", now, is_bad=True)
        return []

    def _take_health(self, event: Checked, now: float) -> bool:
        return self.checks.answer(event.number, event.health, now, self.node.broker.health)

    # --- others ---------------------------------------------------------------------------------

    def _learn_peers(self, event: Peers, _: float) -> list[Action]:
        self._campaign.hear(event.members)
        for member in event.members:
            self.keeper.learn(max(member.stamp, member.token or 0))
        return []

    def _asked(self, event: Asked, now: float) -> list[Action]:
        request = event.request
        if request.command in ("pause", "resume"):
            return self._pause(request, now)
        if request.answer is not None or request.id == self._moved:
            return []
        if self.phase in (Phase.STANDBY, Phase.RELEASING):
            return []  # for the master to answer
        self._moved = request.id
        answer, heir = self._judge(request)
        if answer.code != 202:
            return [Reply(request, answer)]
        by = f" by {request.by}" if request.by else ""
        is_clean = request.command == "switchover"
        cause = f"{request.command} to {heir}{by}"
        return [Reply(request, answer), *self._step_down(cause, now, heir=heir, clean=is_clean)]

    def _judge(self, request: Request) -> tuple[Answer, str]:
        if self.phase not in _MOVABLE[request.command]:
            return Answer(412, f"{self.node.name} is {self.phase.value}, not master"), ""
        if self.is_paused:
            return Answer(409, "the group is paused; resume it first"), ""
        return judge(request, self.group, self.node.name, self._campaign.members)

    def _pause(self, request: Request, now: float) -> list[Action]:
        is_paused = request.command == "pause"
        actions: list[Action] = []
        if request.answer is None:
            actions.append(Reply(request, Answer(202)))
        if is_paused == self.is_paused:
            return actions
        self.is_paused = is_paused
        actions.append(self._say("paused" if is_paused else "resumed"))
        if self._ill and not is_paused and self.phase is Phase.MASTER:
            actions += self._step_down(self._ill, now, is_bad=True)
        return actions

    def _slept(self, event: Slept, now: float) -> list[Action]:
        return self._step_down(f"the machine slept for {event.seconds:.1f} s", now)

    def _stop(self, _: Stop, now: float) -> list[Action]:
        if self.is_stopping and self.phase is Phase.STUCK:
            return [Quit(3, "a broker could not be killed")]
        if self.is_stopping:
            return []
        self.is_stopping = True
        if self.phase is Phase.STANDBY:
            return []
        return self._step_down("shutdown", now, clean=self.phase is Phase.MASTER)

    # --- what time brings -----------------------------------------------------------------------

    def _settle(self, now: float) -> list[Action]:
        actions = self._overdue(now)
        if self.phase is Phase.STANDBY and now >= self._penalty.until:
            self._penalty.until = -math.inf
        if self.phase is Phase.STOPPING and now >= self.keeper.deadline:
            self.phase = Phase.FENCING
            actions += self._kill("the lease is over")
        actions += self._stand(now)
        is_out = self.phase is Phase.STANDBY and self.keeper.state is State.WATCHING
        if self.is_stopping and is_out:
            code = 3 if self.could_not_fence else 0
            actions.append(Quit(code, "a broker could not be killed in time" if code else ""))
        return actions

    def _overdue(self, now: float) -> list[Action]:
        if self.phase is Phase.PREPARING and now >= self._until:
            return self._step_down("the store or a hook did not answer in time", now, is_bad=True)
        if self.phase is Phase.STARTING and now >= self._until:
            limit = self.node.broker.start_timeout
            text = f"the broker was not healthy within {limit:g} s"
            return self._step_down(text, now, is_bad=True)
        if self.phase in (Phase.STARTING, Phase.MASTER):
            return self._look_after(now)
        return []

    def _look_after(self, now: float) -> list[Action]:
        late = self.checks.overdue(now)
        if late is not None:
            health = Health(False, "the health check does not come back")
            return self._handle(Checked(late, health), now)
        number = self.checks.ask(now, self.node.broker.health)
        return [] if number is None else [Check(number)]

    @property
    def _reign(self) -> Reign:
        record = self.keeper.record
        return Reign(self._token, record.incarnation if record else "")

    def _say(self, text: str, level: int = logging.INFO) -> Say:
        return Say(level, text)


def _how_ended(event: Exited) -> str:
    if event.reason:
        return event.reason
    return f"signal {-event.status}" if event.status < 0 else f"exit code {event.status}"


_BEFORE = ("fence", "pre_promote")  # hooks that promotion waits for
_OF_THE_KEEPER = (lock.Seen, lock.Failed, lock.Hint, lock.Tick)
_REIGNING = (Phase.PREPARING, Phase.STARTING, Phase.MASTER)
_LIVING = (Phase.STARTING, Phase.MASTER, Phase.STOPPING, Phase.FENCING, Phase.STUCK)
_MOVABLE = {"switchover": (Phase.MASTER,), "failover": _REIGNING}

Handler: TypeAlias = Callable[[Machine, Any, float], list[Action]]


def _in(handler: Handler, *phases: Phase) -> dict[Phase, Handler]:
    return dict.fromkeys(phases or tuple(Phase), handler)


_TABLE: dict[type, dict[Phase, Handler]] = {
    # of the keeper
    lock.Promote: _in(Machine._promoted, Phase.STANDBY),
    lock.Extend: _in(Machine._extended, *_LIVING),
    lock.Fence: _in(Machine._fence, Phase.STARTING, Phase.MASTER)
    | _in(Machine._nothing_to_kill, Phase.PREPARING, Phase.RELEASING),
    lock.Released: _in(Machine._released),
    lock.Refuse: _in(Machine._refused),
    # of the broker
    Prepared: _in(Machine._prepared, Phase.PREPARING),
    Started: _in(Machine._started, Phase.STARTING),
    Exited: _in(Machine._exited, Phase.STARTING, Phase.MASTER),
    Fencing: {},
    GuardLost: _in(Machine._guard_lost),
    Dead: _in(Machine._died, Phase.STARTING, Phase.MASTER)
    | _in(Machine._dead, Phase.STOPPING, Phase.FENCING, Phase.STUCK),
    Checked: {Phase.STARTING: Machine._first_checked, Phase.MASTER: Machine._checked},
    # of others
    Peers: _in(Machine._learn_peers),
    Asked: _in(Machine._asked),
    Slept: _in(Machine._slept, *_REIGNING),
    Stop: _in(Machine._stop),
}
