"""What a node of the model runs on: its clock, its guard and its broker. A subclass is its sidecar.

The clock runs at a rate of its own. The guard kills the broker at the deadline whatever the sidecar
does; what is killed takes up to K to die. The sidecar may freeze, may die with its guard left, and
may be replaced in place, which guard and broker outlive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from understudyd.lock.keeper import Keeper
from understudyd.lock.port import Observation
from understudyd.lock.timings import DRIFT, Timings
from understudyd.lock.words import Failed, Seen, Tick
from understudyd.testing.model import Reign, World

__all__ = ["Host"]


class Host(ABC):
    def __init__(self, world: World, name: str, timings: Timings) -> None:
        self.world = world
        self.name = name
        self.timings = timings
        self.rate = 1 + world.random.uniform(-DRIFT, DRIFT)
        self.offset = world.random.uniform(0, 1e6)
        self.life = 0
        self.successors = 0  # that took a sidecar's place
        self.is_to_hand_on = False
        self.frozen_until = 0.0
        self.reign: Reign | None = None
        self.guard_deadline = 0.0  # on this node's clock
        self.is_dying = False
        self.wake = 0

    @property
    def clock(self) -> float:
        return self.offset + self.rate * self.world.now

    @property
    def process(self) -> tuple[int, int]:
        """What ends with a sidecar that is replaced in place, unlike its life."""
        return self.life, self.successors

    # --- the sidecar ----------------------------------------------------------------------------

    @abstractmethod
    def begin(self, keeper: Keeper) -> None:
        """A new sidecar begins its life, with this keeper."""

    @abstractmethod
    def succeed(self, before: Keeper) -> None:
        """A new sidecar goes on with the reign of the one before, with a keeper that has begun
        nothing."""

    @property
    def may_hand_on(self) -> bool:
        return self.keeper.is_promoted and self.keeper.is_settled

    @abstractmethod
    def receive(self, event: Any) -> list[Any]:
        """Hand the event on to it; return what it orders."""

    @abstractmethod
    def obey(self, action: Any) -> None: ...

    @property
    @abstractmethod
    def due(self) -> float:
        """When it wants to be fed a Tick."""

    @abstractmethod
    def death(self, reign: Reign | None, took: float) -> Any:
        """The event that tells it of its broker's death; None: there was none to kill."""

    def start(self) -> None:
        self.life += 1
        self.is_to_hand_on = False
        self.keeper = self._new_keeper()
        self.begin(self.keeper)

    def _new_keeper(self) -> Keeper:
        is_told = self.world.random.random() < 0.5  # and never is: nothing safe may rest on it
        instance = f"{self.name}-{self.life}"
        return Keeper("g", self.name, instance, self.timings, is_told=is_told)

    def feed(self, event: Any) -> None:
        world, life = self.world, self.life
        if world.now < self.frozen_until:
            self.tell(self.frozen_until - world.now + 1e-6, event)
            return
        self.keeper.learn(world.highest_token)  # sidecars tell each other, and stamp the store
        actions = self.receive(event)
        world.highest_token = max(world.highest_token, self.keeper.highest_token)
        for action in actions:
            self.obey(action)
        if life != self.life:
            return
        if self.is_to_hand_on and self.may_hand_on:
            self._hand_on()
        self.wake += 1
        wake = self.wake
        delay = max(self.due - self.clock, 0.0) / self.rate
        lag = world.random.expovariate(1000)  # the scheduler is never on time
        if delay < 1e6:
            world.after(delay + lag, lambda: self.feed(Tick()) if wake == self.wake else None)

    def tell(self, delay: float, event: Any) -> None:
        """`feed` it, if the sidecar still lives by then."""
        mine = self.process
        self.world.after(delay, lambda: self.feed(event) if mine == self.process else None)

    def ask(self, attempt: int, operation: Callable[[], Observation]) -> None:
        """Of the store."""
        world, mine = self.world, self.process

        def reply(observation: Observation) -> None:
            if mine == self.process:
                journeys = world.journeys()
                for delay in journeys:
                    self.tell(delay, Seen(attempt, observation))
                if not journeys and world.random.random() < 0.5:
                    self.tell(0.001, Failed(attempt, "cut off while the answer was on its way"))

        journeys = world.journeys()[:1]  # a request is carried out at most once, see the port
        for delay in journeys:
            world.after(delay, lambda: reply(operation()))
        if not journeys and world.random.random() < 0.5:
            self.tell(0.001, Failed(attempt, "refused"))

    # --- the guard and the broker ---------------------------------------------------------------

    def launch(self, token: int, deadline: float) -> bool:
        """Whether there was time left to start the broker."""
        assert self.reign is None
        self.guard_deadline = deadline
        self.is_dying = False
        is_in_time = self.clock < deadline
        if is_in_time:
            self.reign = Reign(self.name, token, self.world.now)
            self.world.reigns.append(self.reign)
        self._watch_deadline()
        return is_in_time

    def extend(self, deadline: float) -> None:
        self.guard_deadline = max(self.guard_deadline, deadline)
        self._watch_deadline()

    def stop(self, seconds: float) -> None:
        """The order to stop; the broker takes so long."""
        life, mine = self.life, self.reign
        self.world.after(seconds, lambda: self.kill(life) if self.reign is mine else None)

    def kill(self, life: int) -> None:
        """The order to kill; dead within K, which the sidecar of that life is told."""
        if self.is_dying and self.reign is not None:
            return
        self.is_dying = True
        reign = self.reign
        took = self.world.random.uniform(0, self.timings.kill) if reign else 0.0

        def die() -> None:
            if reign is not None and reign.end is None:
                reign.end = self.world.now
            if self.reign is reign:
                self.reign = None
            if life == self.life:
                self.feed(self.death(reign, took))
            elif reign is not None:
                self._let_go(reign)

        self.world.after(took, die)

    def _let_go(self, reign: Reign) -> None:
        """The guard writes the tombstone where the sidecar is dead, unless it is cut off."""
        record = self.world.record
        if record is not None and record.token == reign.token and self.world.random.random() < 0.7:
            tombstone = replace(record, sequence=record.sequence + 1, released=True)
            self.world.swap(self.world.observe(), tombstone)

    def _watch_deadline(self) -> None:
        life = self.life

        def check() -> None:
            if self.clock >= self.guard_deadline - 1e-9 and not self.is_dying:
                self.kill(life)

        self.world.after(max(self.guard_deadline - self.clock, 0.0) / self.rate, check)

    # --- faults ---------------------------------------------------------------------------------

    def freeze(self) -> None:
        self.frozen_until = self.world.now + self.world.random.choice([0.1, 1.0, 3.0, 9.0])

    def crash(self) -> None:
        """The sidecar dies; its guard kills the broker; a new sidecar comes."""
        self.end(self.world.random.choice([0.0, 0.5, 5.0]))

    def hand_on(self) -> None:
        """A new sidecar is to take this one's place: as soon as it may."""
        self.is_to_hand_on = True

    def _hand_on(self) -> None:
        self.is_to_hand_on = False
        self.successors += 1
        self.frozen_until = self.world.now + self.world.random.choice([0.1, 0.5, 2.0])
        before, self.keeper = self.keeper, self._new_keeper()
        self.succeed(before)

    def end(self, pause: float) -> None:
        life = self.life
        self.life += 1
        self.wake += 1
        self.frozen_until = 0.0
        self.kill(life)
        born = self.life
        again = self.timings.kill + pause
        self.world.after(again, lambda: self.start() if born == self.life else None)
