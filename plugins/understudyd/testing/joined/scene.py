"""The scene: traffic over a bridge, while what it needs is killed; and what became of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import understudy.pika
from understudy.errors import UnderstudyError
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.demo.brokers import Brokers
from understudy.testing.demo.view import Status, View
from understudyd.testing.joined.traffic import Consumer, Producer
from understudyd.testing.operated import Operated

__all__ = ["FULL", "QUICK", "Outcome", "SceneFailed", "Step", "play"]

TICK = 0.1  # s between two looks
BOOT = 30.0  # s for the bridge to run
SETTLE = 60.0  # s for what is still on its way; 5 are usual
BRIDGE = "bridge"


@dataclass(frozen=True)
class Step:
    """What is killed, ``after`` so many seconds in which all was well; it is started a second
    later."""

    name: str
    after: float


FULL = (Step("RabbitMQ", 5.0), Step("ActiveMQ", 5.0), Step(BRIDGE, 5.0))
QUICK = (Step("RabbitMQ", 2.0),)


@dataclass(frozen=True)
class Outcome:
    """Every number in it was measured."""

    sent: int  # confirmed by ActiveMQ
    arrived: int  # of those, taken from RabbitMQ
    lost: int
    again: int  # times that one came once more
    longest_pause: float  # s in which nothing new arrived
    took: float  # s
    events: tuple[str, ...]
    states: tuple[str, ...]  # of the bridge, with reasons, as they were shown
    error: str  # raised to the producer or the consumer

    @property
    def is_clean(self) -> bool:
        return self.sent > 0 and not self.lost and not self.error

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.is_clean}


class SceneFailed(UnderstudyError):
    """The scene itself could not be played."""


def play(
    active: ActiveMQ,
    rabbit: RabbitMQ,
    steps: Sequence[Step],
    folder: Path,
    view: View,
    *,
    queue: str = "orders",
    rate: float = 100.0,
) -> Outcome:
    """Both brokers are up, queue and folder are empty; ``rate`` is sent in a second. Nothing of
    ours is left running."""
    bridge = Operated(folder, active.uri, rabbit.uri, queue)
    producer, consumer = Producer(active.uri, queue, rate), Consumer(rabbit.uri, queue)
    scene = _Scene(active, rabbit, bridge, producer, consumer, view)
    with understudy.pika.BlockingConnection(rabbit.uri) as connection:
        connection.channel().queue_declare(queue, durable=True)
    with bridge:
        scene.await_running()
        with consumer, producer:
            for step in steps:
                scene.carry_out(step)
            scene.wait(steps[-1].after)
            producer.stop()
            scene.settle()
        bridge.stop()
    return scene.outcome()


class _Scene:
    def __init__(
        self,
        active: ActiveMQ,
        rabbit: RabbitMQ,
        bridge: Operated,
        producer: Producer,
        consumer: Consumer,
        view: View,
    ) -> None:
        self._brokers = Brokers({"ActiveMQ": active, "RabbitMQ": rabbit}, "up")
        self._bridge = bridge
        self._producer = producer
        self._consumer = consumer
        self._view = view
        self._begun = time.monotonic()
        self._events: list[str] = []
        self._states: list[str] = []
        self._shown = "starting"
        self._doing = "the bridge starts"

    def await_running(self) -> None:
        end = time.monotonic() + BOOT
        while self._shown != "running":
            if time.monotonic() > end:
                raise SceneFailed(f"the bridge did not start:\n{self._bridge.log[-2000:]}")
            self._tick()
        self._begun = time.monotonic()
        self._doing = "orders flow"

    def carry_out(self, step: Step) -> None:
        self.wait(step.after)
        self._note(f"SIGKILL {step.name}")
        self._doing = f"{step.name} is dead"
        if step.name == BRIDGE:
            self._bridge.kill()
            self.wait(1.0)
            self._bridge.start()
        else:
            self._brokers.kill(step.name)
            self.wait(1.0)
            self._brokers.start(step.name)
        self._note(f"start {step.name} again")
        self._doing = f"{step.name} is starting again"
        while not (self._brokers.are_up and self._shown == "running"):
            self._tick()
        self._note(f"{step.name} is back, the bridge runs")
        self._doing = "orders flow"

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tick()

    def settle(self) -> None:
        """What is still on its way."""
        self._note("end of sending")
        self._doing = "waiting for what is still on its way"
        end = time.monotonic() + SETTLE
        while len(self._consumer.arrived) < len(self._producer.sent) and time.monotonic() < end:
            self._tick()
        self.wait(1.0)  # what comes twice comes now

    def outcome(self) -> Outcome:
        sent, arrived = set(self._producer.sent), set(self._consumer.arrived)
        return Outcome(
            len(sent),
            len(sent & arrived),
            len(sent - arrived),
            self._consumer.again,
            round(self._consumer.longest_pause(), 1),
            round(time.monotonic() - self._begun, 1),
            tuple(self._events),
            tuple(self._states),
            self._producer.error or self._consumer.error,
        )

    def _tick(self) -> None:
        time.sleep(TICK)
        self._brokers.came_up()
        told = self._bridge.bridge()
        self._shown = told.get("state", "down")
        line = f"{self._shown}: {told['reason']}" if told.get("reason") else self._shown
        if not self._states or self._states[-1] != line:
            self._states.append(line)
            self._view.say(f"   {self._elapsed():5.1f} s  the bridge is {line}")
        now = time.monotonic()
        self._view.show(
            Status(
                title="ActiveMQ -> bridge -> RabbitMQ",
                elapsed=now - self._begun,
                doing=self._doing,
                brokers={**self._brokers.states, BRIDGE: self._shown},
                sent=len(self._producer.sent),
                executed=len(self._consumer.arrived),
                rate=self._consumer.rate(now),
                done="arrived",
            )
        )

    def _note(self, what: str) -> None:
        self._events.append(f"{self._elapsed():.1f} s {what}")
        self._view.say(f">> {self._events[-1]}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun
