"""The node: when its broker may become master, and what else ends that. Pure: events and `now` in,
actions out.

Rules
* The tenure has the lock and the broker. Here it is decided when one may begin, and when it has to
  end for a reason that is neither: a request, sleep, shutdown.
* Every event is preceded by a look at the clock, so that nothing is begun after the deadline.
* A pause stops what the nodes would do by themselves: campaign, and hand over for an ill broker.
* A node that is refused when it comes (its name is taken, its timings differ or are too short for
  the broker) ends; one that is refused later stays a standby until it is not any more.
* Told to end it hands over first. Only a second word ends it while its broker can't be killed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, TypeAlias

from understudyd import election
from understudyd.board.port import Answer, Request
from understudyd.config.model import Group, Node
from understudyd.lock.keeper import Keeper, State
from understudyd.lock.port import Observation
from understudyd.lock.words import Failed, Seen, Tick
from understudyd.sidecar.campaign import Campaign
from understudyd.sidecar.killing import KillTime
from understudyd.sidecar.legacy import Legacy
from understudyd.sidecar.moves import Moves
from understudyd.sidecar.penalty import Penalty
from understudyd.sidecar.phase import Phase
from understudyd.sidecar.tenure import Tenure
from understudyd.sidecar.tidings import Reigns
from understudyd.sidecar.words import Action, Asked, Event, Peers, Quit, Reply, Slept, Stop, say
from understudyd.status import Role

__all__ = ["Machine"]


class Machine:
    def __init__(self, group: Group, node: Node, keeper: Keeper, chance: random.Random) -> None:
        self.group = group
        self.node = node
        self.keeper = keeper
        self.is_stopping = False
        self._penalty = Penalty(group.timings.lease, chance)
        self.tenure = Tenure(group, node, keeper, self._penalty)
        self._campaign = Campaign()
        self._moves = Moves()
        self._refused_since = math.inf
        self._reigns = Reigns(node.name)
        self.kill_time = KillTime(group.timings.kill)

    def __repr__(self) -> str:
        return f"<Machine {self.node.name} {self.phase.value} token={self.token}>"

    @property
    def phase(self) -> Phase:
        return self.tenure.phase

    @property
    def token(self) -> int | None:
        return self.keeper.token

    @property
    def role(self) -> str:
        if self.phase is Phase.MASTER:
            return Role.MASTER
        return Role.STANDBY if self.phase is Phase.STANDBY and not self.is_stopping else Role.NONE

    @property
    def is_held_by_another(self) -> bool:
        """Whether somebody has the lock, or had it when we claimed it: who lets go of a file looks
        at it once more."""
        is_held = self.tenure.sight.holder is not None or self.keeper.is_kept_out
        return self.phase is Phase.STANDBY and is_held

    @property
    def is_paused(self) -> bool:
        return self.tenure.is_paused

    def is_ready(self, now: float) -> bool:
        """Whether this standby could be master."""
        is_out = self.keeper.refused or self.is_stopping or now < self._penalty.until
        return self.phase is Phase.STANDBY and not is_out

    @property
    def due(self) -> float:
        """When to feed `Tick` at the latest."""
        moments = [self.tenure.due, self._campaign.due]
        if self.phase is Phase.STANDBY and math.isfinite(self._penalty.until):
            moments.append(self._penalty.until)
        return min(moments)

    def receive(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; return what to do, in order."""
        self._campaign.begin(now)
        actions = self._see(event, now) if isinstance(event, Seen) else []
        if isinstance(event, Failed):
            self.tenure.sight.miss(event)
        actions += self._stand(now) + self.tenure.receive(Tick(), now)
        handler = _HANDLERS.get(type(event))
        actions += handler(self, event, now) if handler else self.tenure.receive(event, now)
        if isinstance(event, Seen) and event.observation is self.keeper.observation:
            actions += self._bear_refusal(now)
        return actions + self._settle(now)

    def _see(self, event: Seen, now: float) -> list[Action]:
        sight = self.tenure.sight
        sight.see(event, now)
        news = self._reigns.hear(sight.holder, sight.token)
        return [say(news)] if news else []

    def configure(self, group: Group, node: Node) -> None:
        """Go on with other settings; the group's name, lock and timings stay."""
        self.group = self.tenure.group = group
        self.node = self.tenure.node = node

    def adopt(self, legacy: Legacy, now: float) -> None:
        """Go on with the reign that the sidecar before has left; before anything else."""
        self.keeper.adopt(legacy.record, legacy.deadline, legacy.sequence)
        self.keeper.learn(legacy.highest_token)
        self.tenure.adopt(legacy.pid, legacy.since, legacy.ill, now)
        self.tenure.is_paused = legacy.is_paused
        self.tenure.sight.see(Seen(0, Observation(legacy.record, legacy.record.incarnation)), now)

    def legacy(self, driver: str, descriptor: int | None) -> Legacy:
        """Of a master: ``driver`` and ``descriptor`` are what the driver and the lock hand on."""
        assert self.keeper.record is not None
        assert self.tenure.pid is not None
        return Legacy(
            self.keeper.record,
            self.keeper.deadline,
            self.keeper.sequence,
            self.keeper.highest_token,
            self.tenure.pid,
            self._penalty.since,
            self.is_paused,
            self.tenure.ill,
            driver,
            descriptor,
        )

    def _stand(self, now: float) -> list[Action]:
        """Tell the keeper whether it may claim the lock, and how late."""
        may = self.is_ready(now) and not self.is_paused
        permit = self._campaign.permit(may, self.node, self.tenure.sight.record, now)
        return self.tenure.permit(permit, now)

    def _bear_refusal(self, now: float) -> list[Action]:
        """The lock has answered. The late word of a dead one may be what refuses; it passes."""
        if not self.keeper.refused:
            self._refused_since = math.inf
            return []
        self._refused_since = min(self._refused_since, now)
        patience = self.group.timings.patience
        is_at_start = self._is_at_start(self._refused_since)
        has_stayed = now >= self._refused_since + 1.1 * patience
        return [Quit(2, self.keeper.refused)] if is_at_start and has_stayed else []

    def _settle(self, now: float) -> list[Action]:
        actions = self.tenure.go_on(now)
        if self.phase is Phase.STANDBY and now >= self._penalty.until:
            self._penalty.until = -math.inf
        actions += self._stand(now)
        is_out = self.phase is Phase.STANDBY and self.keeper.state is State.WATCHING
        if self.is_stopping and is_out:
            code = 3 if self.tenure.could_not_fence else 0
            actions.append(Quit(code, "a broker could not be killed in time" if code else ""))
        return actions

    # --- others, and what they ask for ----------------------------------------------------------

    def _learn_peers(self, event: Peers, now: float) -> list[Action]:
        self._campaign.hear(event.members)
        for member in event.members:
            self.keeper.learn(max(member.stamp, member.token or 0))
        return self._weigh_broker(event, now)

    def _weigh_broker(self, event: Peers, now: float) -> list[Action]:
        """When this node comes."""
        if self.phase is not Phase.STANDBY or not self._is_at_start(now):
            return []
        for one in event.members:
            if election.is_master(one) and one.name != self.node.name:
                reason = self.kill_time.refusal(one.name, one.kill_s)
                return [Quit(2, reason)] if reason else []
        return []

    def _is_at_start(self, moment: float) -> bool:
        return moment <= self._campaign.began + 2 * self.group.timings.patience

    def _asked(self, event: Asked, now: float) -> list[Action]:
        is_pause = event.request.command in ("pause", "resume")
        return (self._pause if is_pause else self._move)(event.request, now)

    def _move(self, request: Request, now: float) -> list[Action]:
        if self.phase in (Phase.STANDBY, Phase.RELEASING):
            return []  # for the master to answer
        verdict = self._moves.judge(
            request,
            self._obstacle(request),
            group=self.group,
            me=self.node.name,
            members=self._campaign.members,
            now=now,
        )
        if verdict is None:
            return []
        answer, heir = verdict
        if answer.code != 202:
            return [Reply(request, answer)]
        by = f" by {request.by}" if request.by else ""
        cause = f"{request.command} to {heir}{by}"
        is_clean = request.command == "switchover"
        return [
            Reply(request, answer),
            *self.tenure.step_down(cause, now, heir=heir, clean=is_clean),
        ]

    def _obstacle(self, request: Request) -> Answer | None:
        if self.phase not in _MOVABLE[request.command]:
            return Answer(412, f"{self.node.name} is {self.phase.value}, not master")
        return Answer(409, "the group is paused; resume it first") if self.is_paused else None

    def _pause(self, request: Request, now: float) -> list[Action]:
        is_paused = request.command == "pause"
        actions: list[Action] = []
        if request.answer is None:
            actions.append(Reply(request, Answer(202)))
        if is_paused == self.is_paused:
            return actions
        actions.append(say("paused" if is_paused else "resumed"))
        return actions + self.tenure.pause(is_paused, now)

    def _slept(self, event: Slept, now: float) -> list[Action]:
        if self.phase not in _REIGNING:
            return []
        return self.tenure.step_down(f"the machine slept for {event.seconds:.1f} s", now)

    def _stop(self, _: Stop, now: float) -> list[Action]:
        if self.is_stopping and self.phase is Phase.STUCK:
            return [Quit(3, "a broker could not be killed")]
        if self.is_stopping:
            return []
        self.is_stopping = True
        if self.phase is Phase.STANDBY:
            return []
        return self.tenure.step_down("shutdown", now, clean=self.phase is Phase.MASTER)


_REIGNING = (Phase.PREPARING, Phase.STARTING, Phase.MASTER)
_MOVABLE = {"switchover": (Phase.MASTER,), "failover": _REIGNING}

Handler: TypeAlias = Callable[[Machine, Any, float], list[Action]]

_HANDLERS: dict[type, Handler] = {
    Peers: Machine._learn_peers,
    Asked: Machine._asked,
    Slept: Machine._slept,
    Stop: Machine._stop,
}
