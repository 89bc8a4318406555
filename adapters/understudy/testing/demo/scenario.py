"""One run: publish steadily, do to the brokers what the plan says, account for every task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.testing.brokers import RabbitMQ
from understudy.testing.demo import processes, queues
from understudy.testing.demo.brokers import Brokers
from understudy.testing.demo.outcome import Event, Outcome
from understudy.testing.demo.plan import Contestant, Load, Step
from understudy.testing.demo.processes import Child
from understudy.testing.demo.records import GO, QUEUE
from understudy.testing.demo.tally import Tally
from understudy.testing.demo.view import Status, View

__all__ = ["DemoFailed", "Run"]

TICK = 0.1  # s between two looks at everything
BOOT = 60.0  # s for publishers and workers to be ready; 5 is usual
#: s for a worker to end; one that waits for a dead peer never does. billiard's processes wait for
#: 30 s where their pool does not read what they put out, as when it was told to end before it was
#: connected again (seen with Celery's own transport, too).
STOP = 40.0
#: s without any execution after which what is missing is not waited for any longer: while a queue
#: holds messages, its worker may still be in Celery's pause between two attempts to connect
QUIET, QUIET_WITH_QUEUE = 3.0, 12.0
SETTLE = 30.0  # s, the limit of all waiting for stragglers
RETURN = 2.0  # s for a broker to put back what a worker held when it was killed


class DemoFailed(UnderstudyError):
    """The demonstration itself could not be carried out."""


class Run:
    """A contestant's run; ``carry_out()`` once, in an empty folder, with all brokers up."""

    def __init__(
        self,
        contestant: Contestant,
        brokers: Brokers[RabbitMQ],
        load: Load,
        steps: Sequence[Step],
        folder: Path,
        view: View,
    ) -> None:
        self.contestant, self.load, self.steps = contestant, load, steps
        self.brokers, self.folder, self.view = brokers, folder, view
        self.tally = Tally(folder)
        self.events: list[Event] = []
        self._begun = time.monotonic()  # publishing; until then, the run
        self.doing = "starting"
        self._workers: list[Child] = []
        self._publishers: list[Child] = []

    def carry_out(self) -> Outcome:
        """Do it all; leaves no process of its own behind, however it ends."""
        try:
            self._launch()
            self._let_go()
            self._follow_plan()
            end, hung = self._end_publishing()
            self._settle()
            self.doing = "stopping the workers"
            stuck = processes.wait_for_end(self._workers, STOP, self._tick)
            return self._outcome(end, hung, stuck)
        finally:
            for child in (*self._publishers, *self._workers):
                child.kill()

    # --- the course of it -----------------------------------------------------------------------

    def _launch(self) -> None:
        what = (self.contestant, self.load, self.folder)
        for name in self.brokers.nodes:
            self._workers.append(processes.worker(name, *what))
        for number in range(1, self.load.publishers + 1):
            self._publishers.append(processes.publisher(number, *what))

    def _let_go(self) -> None:
        children = [*self._workers, *self._publishers]
        deadline = time.monotonic() + BOOT
        while late := [child for child in children if not child.is_ready]:
            for child in late:
                if not child.is_running or time.monotonic() > deadline:
                    raise DemoFailed(f"{child.name} did not start:\n{child.log_tail()}")
            self.doing = f"starting {', '.join(child.name for child in late)}"
            self._tick()
        self._begun = time.monotonic()
        (self.folder / GO).touch()
        self.doing = "publishing"

    def _follow_plan(self) -> None:
        since = time.monotonic()
        for step in self.steps:
            while time.monotonic() < since + step.after:
                self._tick()
            while step.action in ("freeze", "end") and not self.brokers.are_up:
                self._tick()
            since = time.monotonic()
            self._do(step)

    def _do(self, step: Step) -> None:
        brokers = self.brokers
        active = self.tally.active(time.monotonic()) or next(iter(brokers.nodes))
        if step.action == "kill":
            self._note("SIGKILL", active)
            self.doing = f"{active} is dead"
            brokers.kill(active)
        elif step.action == "freeze":
            self._note("SIGSTOP", active)
            self.doing = f"{active} is frozen: connections stay open, nothing answers"
            brokers.freeze(active)
        elif step.action == "start":
            name = brokers.the_one("killed")
            self._note("start again", name)
            self.doing = f"{name} is starting again"
            brokers.start(name)
        elif step.action == "thaw":
            name = brokers.the_one("frozen")
            self._note("SIGCONT", name)
            self.doing = f"{name} goes on where it was"
            brokers.thaw(name)

    def _end_publishing(self) -> tuple[float, dict[str, float]]:
        """When publishing ended, and for how long those publishers hung that had to be killed."""
        end = self._note("end of publishing")
        self.doing = "waiting for the last calls to return"
        names = processes.wait_for_end(self._publishers, self.load.timeout + 2, self._tick)
        now = time.monotonic()
        self.tally.poll()
        return end, {name: now - self.tally.last_call.get(name, self._begun) for name in names}

    def _settle(self) -> None:
        """Let the workers finish what they can."""
        self.doing = "waiting for tasks still under way"
        begin = quiet_since = asked = time.monotonic()
        has_queue = True
        while len(self.tally.executed) < len(self.tally.sent):
            before = self.tally.executions.total()
            self._tick()
            now = time.monotonic()
            if self.tally.executions.total() > before:
                quiet_since = now
            if now > asked + 1:
                has_queue, asked = self._has_queue(), now
            patience = QUIET_WITH_QUEUE if has_queue else QUIET
            if now > min(quiet_since + patience, begin + SETTLE):
                break

    def _has_queue(self) -> bool:
        vhost = self.contestant.vhost
        return any(queues.depth(node, vhost, QUEUE) for node in self.brokers.nodes.values())

    # --- the account of it ----------------------------------------------------------------------

    def _outcome(self, end: float, hung: dict[str, float], stuck: list[str]) -> Outcome:
        tally = self.tally
        tally.poll()
        stranded = self._stranded()
        return Outcome(
            contestant=self.contestant,
            events=self.events,
            sent=len(tally.sent),
            executed=len(tally.executed),
            lost=len(tally.sent - tally.executed - stranded),
            stranded=len(stranded),
            duplicates=tally.duplicates,
            errors=dict(tally.errors),
            first_error=tally.first_error,
            longest_call=max(tally.longest_call, *hung.values(), 0.0),
            longest_pause=tally.longest_pause(self._begun, end),
            publishing=end - self._begun,
            hung_publishers=len(hung),
            stuck_workers=stuck,
        )

    def _stranded(self) -> set[str]:
        """Tasks sent and not executed that are in the queues, now that no worker runs."""
        missing = self.tally.sent - self.tally.executed
        found: set[str] = set()
        deadline = time.monotonic() + RETURN
        while missing - found and time.monotonic() < deadline:
            for node in self.brokers.nodes.values():
                found |= queues.taken(node, self.contestant.vhost, QUEUE)
            self._tick()
        return missing & found

    def _tick(self) -> None:
        time.sleep(TICK)
        for name in self.brokers.came_up():
            self._note("up again", name)
            self.doing = f"{name} is up again"
        self.tally.poll()
        self.view.show(self._status())

    def _note(self, what: str, broker: str | None = None) -> float:
        now = time.monotonic()
        event = Event(round(now - self._begun, 2), what, broker)
        self.events.append(event)
        self.view.say(f">> {event}")
        return now

    def _status(self) -> Status:
        now = time.monotonic()
        tally = self.tally
        return Status(
            title=self.contestant.name,
            elapsed=now - self._begun,
            doing=self.doing,
            brokers=dict(self.brokers.states),
            active=tally.active(now),
            sent=len(tally.sent),
            executed=len(tally.executed),
            errors=tally.errors.total(),
            rate=tally.rate(now),
        )
