"""The process that runs an exec driver's commands, and fences when the sidecar can't.

Rules
* A broker that commands start and stop is nobody's child. So another process than the sidecar has
  the commands, the deadline and a copy of the lock: when the sidecar is frozen past the deadline,
  or dead, the fence command is run here, and only after it has succeeded the lock is let go.
* A sidecar that does not notice within `PATIENCE` that its broker is dead is frozen, and may have
  the lock open: it is killed.
* Fencing is tried until it succeeds, whoever asked for it, and waits for nothing.
* Only what promote starts inherits the lock's descriptor: what fence or demote leaves behind would
  keep the lock for ever.
* Orders and reports are those of the guards.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from understudyd.clock import now
from understudyd.config.model import BrokerConfig, Command
from understudyd.drivers.command import Running
from understudyd.guard.page import Page
from understudyd.guard.release import release
from understudyd.guard.system import die_with_parent
from understudyd.guard.wire import Wire
from understudyd.guard.words import (
    Beat,
    Dead,
    Exited,
    Kill,
    Launch,
    Lock,
    Ready,
    Seen,
    Started,
    Stop,
)

__all__ = ["Plan", "main"]

LOOK = 0.02  # s between two looks at a command under way
PATIENCE = 2.0  # s
AGAIN = 1.0  # s after a fence command that failed


@dataclass(frozen=True)
class Plan:
    """What the fencer runs."""

    promote: Command
    demote: Command
    fence: Command
    cwd: str
    user: str | None
    lock: Lock

    @classmethod
    def of(cls, config: BrokerConfig, lock: Lock) -> Plan:
        assert config.promote is not None
        assert config.demote is not None
        assert config.fence is not None
        cwd = str(config.cwd or "/")
        return cls(config.promote, config.demote, config.fence, cwd, config.user, lock)

    def hidden(self) -> int:
        """A descriptor for `of_descriptor`: in a command line all users of the machine would read
        the password that the lock's URI may hold."""
        descriptor = os.memfd_create("understudy-plan")
        os.pwrite(descriptor, json.dumps(asdict(self)).encode(), 0)
        return descriptor

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Plan:
        """Closes it."""
        with open(descriptor, "rb") as file:
            file.seek(0)
            data = json.load(file)
        for name in ("promote", "demote", "fence"):
            data[name] = Command(tuple(data[name]["argv"]), data[name]["timeout"])
        return cls(**{**data, "lock": Lock(**data["lock"])})


class Fencer:
    """One command under way at a time."""

    def __init__(self, plan: Plan, wire: Wire, page: Page, token: int) -> None:
        """``token``: of a broker that lost its fencer, and is to be fenced now; 0 = none."""
        self._plan = plan
        self._wire = wire
        self._page = page
        self._is_orphan = False
        self._sidecar = os.pidfd_open(os.getppid())
        self._unseen = 0  # the token of a broker that is dead, which the sidecar has not noticed
        self._seen_until = math.inf  # when it should have
        self._token = token  # of a broker that may live; 0: none does
        self._env: Mapping[str, str] = dict(os.environ)
        self._descriptors: list[int] = []
        self._doing = ""  # promote, demote or fence
        self._running: Running | None = None
        self._limit = math.inf
        self._begun = 0.0  # of fencing
        self._again = now() if token else math.inf  # when to fence, or to fence again

    def run(self) -> None:
        """Until the sidecar is gone, and no broker is left."""
        while self._token or not self._is_orphan:
            self._wait()
            self._read()
            if self._running is not None:
                self._look(self._running)
            is_over = self._token and now() >= self._page.read().deadline
            if now() >= self._seen_until:
                signal.pidfd_send_signal(self._sidecar, signal.SIGKILL)
                self._seen_until = math.inf
            if now() >= self._again or (is_over and self._doing != "fence"):
                self._fence()
        if self._unseen:
            lock = self._plan.lock
            mine = self._descriptors.pop(0) if self._descriptors else None
            release(lock, self._unseen, mine, max(now(), self._page.read().deadline))

    def _wait(self) -> None:
        moments = [self._again, self._seen_until]
        if self._running is not None:
            moments.append(now() + LOOK)
        elif self._token and self._doing != "fence":
            moments.append(self._page.read().deadline)
        patience = min(moments) - now()
        poll = select.poll()
        if not self._is_orphan:
            poll.register(self._wire.fileno(), select.POLLIN)
        # the deadline may be raised meanwhile, which is not told: look again then
        poll.poll(None if patience == math.inf else max(0.0, math.ceil(patience * 1000)))

    def _read(self) -> None:
        try:
            while not self._is_orphan and (received := self._wire.receive()) is not None:
                self._obey(*received)
        except EOFError:
            self._is_orphan = True
            if self._token and self._doing != "fence":
                self._fence()

    def _obey(self, order: object, descriptors: Sequence[int]) -> None:
        match order:
            case Launch() if now() < self._page.read().deadline and not self._token:
                self._token = order.token
                self._unseen = 0
                self._env = order.env
                self._descriptors = list(descriptors)
                self._begin("promote", self._plan.promote, math.inf)
            case Launch(token):
                self._tell(Dead(token, 0.0, cause="its lease was over"))
            case Beat():
                self._tell(order)
            case Seen():
                self._unseen = 0
                self._seen_until = math.inf
            case Stop(_, _, until) if self._token and not self._doing:
                self._begin("demote", self._plan.demote, until)
            case Stop() | Kill() if self._token:
                if self._doing != "fence":
                    self._fence()
            case Stop(token) | Kill(token):
                self._tell(Dead(token, 0.0, cause="nothing was running"))

    def _begin(self, what: str, command: Command, until: float) -> None:
        self._doing = what
        self._limit = min(now() + command.timeout, until)
        user, cwd = self._plan.user, Path(self._plan.cwd)
        descriptors = self._descriptors if what == "promote" else ()
        try:
            self._running = Running(
                command.argv,
                self._env,
                cwd=cwd,
                user=user,
                descriptors=descriptors,
                before=die_with_parent,
            )
        except (OSError, KeyError) as error:
            self._ended(False, f"can't run {command.argv[0]}: {error}")

    def _look(self, running: Running) -> None:
        if not running.wait(0) and now() < self._limit:
            return
        self._running = None
        outcome = running.end()
        self._ended(outcome.ok, outcome.detail)

    def _ended(self, ok: bool, detail: str) -> None:
        what, self._doing = self._doing, ""
        if what == "promote" and ok:
            self._tell(Started(self._token, 0))
        elif what == "promote":
            self._tell(Exited(self._token, 1, f"promote failed: {detail}"))
            self._fence()
        elif ok:
            self._over(what)
        elif what == "demote":
            self._fence()
        else:
            self._doing = "fence"
            self._again = now() + AGAIN
            took = now() - self._begun
            self._tell(Dead(self._token, took, (f"the broker (fence failed: {detail})",)))

    def _fence(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None
        if self._doing != "fence":
            self._begun = now()
        self._again = math.inf
        self._begin("fence", self._plan.fence, math.inf)

    def _over(self, what: str) -> None:
        """No broker lives any more."""
        token, self._token = self._token, 0
        took = now() - self._begun if what == "fence" else 0.0
        self._again = math.inf
        self._unseen = token
        if self._is_orphan:
            return
        self._seen_until = now() + PATIENCE
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._tell(Dead(token, took, cause=f"{what} succeeded"))

    def _tell(self, event: Started | Exited | Dead | Beat) -> None:
        if not self._is_orphan:
            with contextlib.suppress(OSError):  # it has died, which the wire shows next
                self._wire.send(event)


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the sidecar tells when it is over
    hidden, wire, page, token = map(int, sys.argv[1:])
    plan = Plan.of_descriptor(hidden)
    end = Wire(socket.socket(fileno=wire))
    with contextlib.suppress(OSError):  # the sidecar has died: there may be a broker all the same
        end.send(Ready(os.getpid()))
    Fencer(plan, end, Page(page), token).run()


if __name__ == "__main__":
    main()
