"""The process that runs an exec driver's commands, and fences when the sidecar can't.

Rules
* A broker that commands start and stop is nobody's child. So another process than the sidecar has
  the commands, the deadline and a copy of the lock: when the sidecar is frozen past the deadline,
  or dead, the fence command is run here, and only after it has succeeded the lock is let go.
* Only what promote starts inherits the lock's descriptor: what fence or demote leaves behind would
  keep the lock for ever.
* It is a child subreaper, so that it finds what a promote that failed has left running. That makes
  it the one to reap what its commands leave behind: a fence command may wait for a process to be
  gone. The next fencer, when this one is killed, is no ancestor of those: it finds what promote has
  started by a variable, `MARK`, which only a process that was given another environment lacks.
* It is as hard to kill, to swap out and to keep waiting as the guards of a broker of our own, and
  hands none of that on.
* Its own signals are caught, not ignored: what is ignored stays so in every broker it starts.
* Orders and reports are those of the guards.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from understudyd.clock import now
from understudyd.drivers import command, deputy, fencing
from understudyd.drivers.command import Running
from understudyd.drivers.fencing import Fencing
from understudyd.drivers.plan import Plan
from understudyd.guard import tree
from understudyd.guard.launch import NOT_STARTED, Ids, become
from understudyd.guard.page import Page, Pulse
from understudyd.guard.release import release
from understudyd.guard.system import (
    Timer,
    become_subreaper,
    die_with_parent,
    harden,
    name_process,
)
from understudyd.guard.wire import Wire
from understudyd.guard.words import Kill, Launch, Message, Ready, Seen, Stop
from understudyd.lock.open import open_backend
from understudyd.logs import log_to_stderr

__all__ = ["main"]

MARK = "UNDERSTUDY_LOCK_REIGN"
DYING = 0.1  # s after SIGKILL; what takes longer is not waited for
PAUSE = 0.002  # s between two looks at whether they are dead
HEEDLESS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)


class Fencer:
    """Drives a `Fencing` with real commands, one at a time."""

    def __init__(
        self, plan: Plan, page: Page, sidecar: int, wire: Wire | None, oom_score: int = 0
    ) -> None:
        """``sidecar``: its pidfd. ``wire``: to it; None: it is dead. ``oom_score``: for commands,
        what `harden` returned."""
        self._plan = plan
        self._page = page
        self._sidecar = sidecar
        self._wire = wire
        self._oom_score = oom_score
        self._pulse = Pulse(page, "fencer")
        self._fencing = Fencing()
        self._events: deque[fencing.Event] = deque()
        self._env = dict(plan.env)
        self._descriptors: list[int] = []  # the lock's
        self._running: Running | None = None
        self._limit = math.inf
        self._before: set[int] = set()  # our children when promote began
        self._deputy: int | None = None  # its pid
        self._is_over = False
        self._bell = _bell()  # readable when a child has ended
        self._poll = select.poll()
        self._timer = Timer()  # which a suspend does not hold up
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(self._timer.descriptor, select.POLLIN)
        if wire is not None:
            self._poll.register(wire.fileno(), select.POLLIN)

    def feed(self, event: fencing.Event) -> None:
        self._events.append(event)

    def run(self) -> None:
        """Until the sidecar is gone, and no broker is left."""
        self._go_on()
        while not self._is_over:
            self._pulse.sign(now())
            due = min(self._fencing.due(self._page.read()), self._limit, self._pulse.due)
            self._timer.set(max(due, 0.0))
            if any(ready == self._timer.descriptor for ready, _ in self._poll.poll()):
                self._timer.clear()
            self._reap()
            self._read()
            self._look()
            self.feed(fencing.Tick())
            self._go_on()

    # --- what happens ---------------------------------------------------------------------------

    def _go_on(self) -> None:
        while self._events and not self._is_over:
            event = self._events.popleft()
            for action in self._fencing.receive(event, self._page.read(), now()):
                _ACTIONS[type(action)](self, action)

    def _read(self) -> None:
        try:
            while self._wire is not None and (received := self._wire.receive()) is not None:
                message, descriptors = received
                if isinstance(message, Launch):
                    self._close_descriptors()
                    plan, *self._descriptors = descriptors
                    self._plan = Plan.of_descriptor(plan)
                    self._env = dict(message.env)
                if isinstance(message, (Launch, Stop, Kill, Seen)):
                    self.feed(message)
        except EOFError:
            assert self._wire is not None
            self._poll.unregister(self._wire.fileno())
            self._wire = None
            self.feed(fencing.Lost())

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 4096)
        for pid in _strangers(command.children):
            if pid == self._deputy:
                self._begin_deputy()

    def _look(self) -> None:
        running = self._running
        if running is not None and (running.wait(0) or now() >= self._limit):
            outcome = running.end()
            self._running, self._limit = None, math.inf
            self.feed(fencing.Ended(outcome.ok, outcome.detail))

    # --- what to do -----------------------------------------------------------------------------

    def _run(self, action: fencing.Run) -> None:
        what = self._plan.command(action.command)
        is_promotion = action.command == "promote"
        if is_promotion:
            self._end_deputy()  # of an earlier reign, with other commands perhaps
            self._before = {one.pid for one in tree.descendants(os.getpid())}
        else:
            self._env.setdefault("UNDERSTUDY_LOCK_TOKEN", str(self._fencing.token))
        if self._deputy is None and self._wire is not None:
            self._begin_deputy()
        env = dict(self._env)
        if is_promotion:
            env[MARK] = self._reign
        try:
            self._running = Running(
                what.argv,
                env,
                cwd=Path(self._plan.cwd),
                descriptors=self._descriptors if is_promotion else (),
                before=partial(_begin, os.getpid(), self._plan.ids, self._oom_score),
            )
        except (OSError, ValueError) as error:
            self.feed(fencing.Ended(False, f"can't run {what.argv[0]}: {error}"))
            return
        self._limit = min(now() + what.timeout, action.until)

    def _abort(self, _: fencing.Abort) -> None:
        if self._running is not None:
            self._running.end()
            self._running, self._limit = None, math.inf

    def _sweep(self, _: fencing.Sweep) -> None:
        """In a process of its own, which is not waited for where it hangs in another's /proc."""
        us, until = os.getpid(), now() + DYING
        spared = self._before | ({self._deputy} if self._deputy else set()) | command.children()
        sweeper = os.fork()
        if sweeper == 0:
            try:
                self._kill_what_is_left(us, spared | {os.getpid()}, until)
            finally:
                os._exit(0)
        end = os.pidfd_open(sweeper)
        while now() < until + DYING and not select.select([end], [], [], PAUSE)[0]:
            self._reap()  # or it would find them again and again
        with contextlib.suppress(ProcessLookupError):  # it has ended
            signal.pidfd_send_signal(end, signal.SIGKILL)
        os.close(end)
        self._reap()

    def _kill_what_is_left(self, root: int, spared: set[int], until: float) -> None:
        signal.set_wakeup_fd(-1)
        mark = f"{MARK}={self._reign}".encode()
        lock = self._descriptors[0] if self._descriptors else None
        while now() < until:
            below = tree.descendants(root, spare=spared)
            left = [one for one in tree.marked(mark) if not tree.is_spared(one, lock)]
            if not below and not left:
                return
            tree.kill([*below, *left])
            time.sleep(PAUSE)

    def _tell(self, action: fencing.Tell) -> None:
        self._send(action.report)

    def _warn(self, action: fencing.Warn) -> None:
        log_to_stderr("understudy.fencer", "fencer ").critical(action.text)

    def _let_go(self, _: fencing.LetGo) -> None:
        self._close_descriptors()

    def _release(self, action: fencing.Release) -> None:
        self._end_deputy()
        mine = self._descriptors.pop(0) if self._descriptors else None
        self._close_descriptors()
        release(self._plan.lock, action.token, mine, max(now(), self._page.read().deadline))
        self._page.clear()

    def _end_sidecar(self, _: fencing.EndSidecar) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._sidecar, signal.SIGKILL)

    def _quit(self, _: fencing.Quit) -> None:
        self._end_deputy()
        self._is_over = True

    # --------------------------------------------------------------------------------------------

    @property
    def _reign(self) -> str:
        """Of no other group, sidecar or time."""
        return f"{self._plan.lock.instance}.{self._fencing.token}"

    def _begin_deputy(self) -> None:
        """Who takes over when we are gone together with the sidecar."""
        ourselves, token = os.pidfd_open(os.getpid()), self._fencing.token
        self._deputy = os.fork()
        if self._deputy == 0:
            deputy.stand_by(
                self._page,
                token,
                self._sidecar,
                ourselves,
                lambda: self._succeed(token),
                slack=self._plan.slack,
            )
        os.close(ourselves)

    def _succeed(self, token: int) -> None:
        """In the deputy, of the broker that may have lost its fencer."""
        fencer = Fencer(self._plan, self._page, self._sidecar, None, self._oom_score)
        fencer.feed(fencing.TakeOver(token))
        fencer.feed(fencing.Lost())
        fencer.run()

    def _end_deputy(self) -> None:
        """It must not fence what is let go of."""
        if self._deputy is not None:
            os.kill(self._deputy, signal.SIGKILL)
            os.waitpid(self._deputy, 0)
            self._deputy = None

    def _send(self, message: Message) -> None:
        if self._wire is not None:
            with contextlib.suppress(OSError):  # it has died, which the wire shows next
                self._wire.send(message)

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


_ACTIONS: dict[type, Callable[..., None]] = {
    fencing.Run: Fencer._run,
    fencing.Abort: Fencer._abort,
    fencing.Sweep: Fencer._sweep,
    fencing.Tell: Fencer._tell,
    fencing.Warn: Fencer._warn,
    fencing.LetGo: Fencer._let_go,
    fencing.Release: Fencer._release,
    fencing.EndSidecar: Fencer._end_sidecar,
    fencing.Quit: Fencer._quit,
}


def _begin(parent: int, ids: Ids | None, oom_score: int) -> None:
    """In the new process: a parent that had died before it was bound to it would not end it."""
    try:
        become(ids, oom_score)
        die_with_parent()
    except OSError as error:
        os.write(2, f"can't become the broker's user: {error}".encode())
        os._exit(NOT_STARTED)
    if os.getppid() != parent:
        os._exit(NOT_STARTED)


def _bell() -> int:
    bell, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *HEEDLESS):  # the sidecar tells when it is over
        signal.signal(number, lambda *_: None)
    return bell


def _strangers(known: Callable[[], set[int]]) -> list[int]:
    """Reap the children that have ended and are not ``known``; their pids."""
    ended: list[int] = []
    while True:
        ours = known()
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if found is None:
            return ended
        if found.si_pid not in ours:
            os.waitpid(found.si_pid, 0)
            ended.append(found.si_pid)


def main() -> None:
    hidden, wire, page, sidecar, token = map(int, sys.argv[1:])
    name_process("understudyfence")
    plan = Plan.of_descriptor(hidden)
    end = Wire(socket.socket(fileno=wire))
    become_subreaper()
    shared = Page(page)
    shared.take_turn()
    if not token:  # what its libraries need is loaded now, not when the sidecar has died
        open_backend(plan.lock.uri, plan.lock.group, plan.lock.attempt).close()
    fencer = Fencer(plan, shared, sidecar, end, harden())
    if token and shared.read().token == token:  # of a broker that lost its fencer
        fencer.feed(fencing.TakeOver(token))
    with contextlib.suppress(OSError):  # the sidecar has died: there may be a broker all the same
        end.send(Ready(os.getpid()))
    fencer.run()


if __name__ == "__main__":
    main()
