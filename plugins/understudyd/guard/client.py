"""Control's end of the guards.

Rules
* Who says that a broker is dead: the guard; the watcher if the guard is lost; control itself if
  both are.
* Any end of control closes its ends of the wires, and is a death to the guards. Only an exec that
  was announced hands the wires on.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from understudy.errors import UnderstudyError
from understudyd.clock import now
from understudyd.guard import tree
from understudyd.guard.end import FROZEN, End, spawn, wait_readable
from understudyd.guard.launch import identity
from understudyd.guard.page import Page
from understudyd.guard.system import become_subreaper
from understudyd.guard.wire import Wire
from understudyd.guard.words import (
    Command,
    Dead,
    Event,
    Exited,
    Fencing,
    GuardLost,
    Kill,
    Launch,
    Lock,
    Message,
    Seen,
    Setup,
    Started,
    Stop,
)
from understudyd.lock.timings import Timings

__all__ = ["Guard"]

START = 30.0  # s, for both to be up: an interpreter, and the libraries of the lock
PATIENCE = 2.0  # s, for a control past its deadline to notice that its broker is dead


class Guard:
    """The two guards of this node, as control sees them. Not for several threads at once."""

    def __init__(
        self,
        lock: Lock | None,
        *,
        kill: float,
        margin: float = Timings.margin,
        owned: Callable[[], Iterable[int]] | None = None,
    ) -> None:
        """``lock``: what the guards let go of when control has died; None = nothing.

        ``kill`` and ``margin``: K and m of the timings, in seconds. What is not dead after K counts
        as unkillable; the watcher acts half the margin later than the guard.
        ``owned`` tells the pids of control's own children (API process, hooks, health commands).
        Should both guards die at once, every other child of control is an orphan of the broker's
        and is killed; control becomes a child subreaper for that. None: control is no subreaper,
        and a broker that lost both guards is reported as not fenced.
        """
        self._setup = Setup(lock, kill, margin / 2, PATIENCE)
        self._owned = owned
        self._page = Page.create()
        self._ends: list[End] = []
        self._begun = -math.inf  # when the guards were started; of those adopted: long ago
        self._token = 0  # of the broker that is not known to be dead; 0: none
        self._has_orphans = False  # both guards are lost while the broker may live
        self._pending: list[Event] = []  # of our own
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rings for those
        self._poll = select.epoll()
        self._poll.register(self._bell, select.EPOLLIN)
        if owned is not None:
            become_subreaper()

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_begun(self) -> bool:
        """Both guards are there, or on their way: `launch` may be called."""
        return len(self._ends) == 2 and all(end.is_alive for end in self._ends)

    @property
    def is_ready(self) -> bool:
        """Both guards are up."""
        return self.is_begun and all(end.is_up for end in self._ends)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the watcher and the guard, when they are up."""
        return tuple(end.pid for end in self._ends)

    def start(self) -> None:
        """Start both guards, and wait until they are up. Raises UnderstudyError."""
        self.begin()
        deadline = time.monotonic() + START
        while not self.is_ready:
            wait_readable(self.fileno(), deadline)
            lost = [event for event in self.events() if isinstance(event, GuardLost)]
            if lost or time.monotonic() >= deadline:
                self._forget()
                raise UnderstudyError(
                    "the guards did not start; what they wrote to stderr tells why"
                )

    def begin(self) -> None:
        """Start both guards; orders wait for them. `GuardLost` follows if they don't come up, and
        `beat` sees to that.

        Raises UnderstudyError where not even a process can be started.
        """
        if self._ends:
            raise UnderstudyError("the guards are there already")
        to_watcher, watcher = Wire.pair()
        to_guard, guard = Wire.pair()
        to_watcher.send(self._setup)
        self._begun = time.monotonic()
        try:
            pid = spawn([watcher.fileno(), guard.fileno(), self._page.descriptor])
            self._add(End("watcher", to_watcher, pid, os.pidfd_open(pid)))
            self._add(End("guard", to_guard))
        except OSError as error:
            to_watcher.close()
            to_guard.close()
            raise UnderstudyError(f"the guards could not be started: {error}") from error
        finally:
            watcher.close()
            guard.close()

    def extend(self, deadline: float, token: int) -> None:
        """Raise the deadline (s of CLOCK_BOOTTIME) of this reign; call before `launch` too.

        It never goes back within a reign.
        """
        self._page.extend(deadline, token)

    def beat(self) -> None:
        """Look for the guards' signs of life; to be called each second or so. One that is frozen is
        killed, and what follows is as if it had died. So are guards that are not up by `START`."""
        if self.is_begun and not self.is_ready and time.monotonic() >= self._begun + START:
            self._end_late()
        for end in self._ends:
            end.doubt(self._page.sign_of(end.name), time.monotonic())

    def launch(self, command: Command, token: int, descriptors: Sequence[int] = ()) -> None:
        """Start the broker. It inherits the descriptors; the first is the lock's, if any.

        `Started` follows, then `Exited` and `Dead`; or `Dead` alone where the deadline has passed
        or this reign has been ended before. Raises ConfigurationError for an unknown user, and
        UnderstudyError where the guards are not ready or a broker lives.
        """
        if not self.is_begun:
            raise UnderstudyError("a broker needs both guards, and they are not there")
        if self._token:
            raise UnderstudyError(f"the broker of token {self._token} is not dead yet")
        ids = None if command.user is None else identity(command.user)
        launch = Launch(
            token,
            command.argv,
            command.env,
            command.cwd,
            command.umask,
            ids,
            has_lock=bool(descriptors),
        )
        self._token = token
        self._order(launch, descriptors)

    def stop(self, number: int, until: float) -> None:
        """Signal the broker, and kill it at ``until`` (CLOCK_BOOTTIME) or D; `Dead` follows."""
        self._token = self._reign
        self._order(Stop(self._token, number, until))

    def kill(self, cause: str) -> None:
        """`Dead` follows, also where nothing runs: this reign's broker won't start any more."""
        self._token = self._reign
        self._order(Kill(self._token, cause))

    def over(self) -> None:
        """The lock has been let go: the guards have nothing to release for this reign."""
        self._page.clear()

    def fileno(self) -> int:
        """Readable when `events` has something; the same descriptor for the life of this object."""
        return self._poll.fileno()

    def events(self) -> list[Event]:
        """What happened since the last call; does not block.

        Only where both guards are lost it kills what they left, which takes up to ``kill``; and if
        that fails, it tries again at each call.
        """
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        events, self._pending = self._pending, []
        for end in self._ends:
            for message in end.receive(self._poll):
                events += self._heard(message)
            end.look(self._poll)
        alive = [end for end in self._ends if end.is_alive]
        if self._ends and not alive:
            events += self._lost()
        elif len(alive) == 1 and not self._token:
            alive[0].send_away()
        elif self._has_orphans:
            events += self._fence(0.0)
        return events

    def expect_restart(self) -> str:
        """Prepare for os.exec in this process; returns what to give to `adopt` after it.

        An exec without it, like any end of control, is a death: the broker is killed. Raises
        UnderstudyError where the guards are not ready.
        """
        if not self.is_ready:
            raise UnderstudyError("without both guards there is nothing to hand on")
        ends = [(end.name, end.wire.fileno(), end.pid, end.process) for end in self._ends]
        handed = [self._page.descriptor, *(end[1] for end in ends), *(end[3] for end in ends)]
        for descriptor in handed:
            os.set_inheritable(descriptor, True)
        return json.dumps({"page": self._page.descriptor, "token": self._token, "ends": ends})

    @classmethod
    def adopt(
        cls,
        state: str,
        lock: Lock | None,
        *,
        kill: float,
        margin: float = Timings.margin,
        owned: Callable[[], Iterable[int]] | None = None,
    ) -> Guard:
        """Take over the guards, and the broker, from before the exec.

        They go on with the lock and the times that they were started with. If the deadline has
        passed meanwhile, `events` tells that the broker is dead.
        """
        there = json.loads(state)
        guard = cls(lock, kill=kill, margin=margin, owned=owned)
        guard._page.close()
        guard._page = Page(there["page"])
        guard._token = there["token"]
        os.set_inheritable(there["page"], False)
        for name, wire, pid, process in there["ends"]:
            os.set_inheritable(wire, False)
            os.set_inheritable(process, False)
            end = End(name, Wire(socket.socket(fileno=wire)), pid, process)
            end.is_up = True
            guard._add(end)
        return guard

    def close(self) -> None:
        """End the guards. A broker that is alive is killed; the lock is let go by the guard."""
        for end in self._ends:
            end.hang_up(self._poll)
        attempt = self._setup.lock.attempt if self._setup.lock else 0.0
        deadline = time.monotonic() + self._setup.kill + 2 * attempt + START
        for end in self._ends:
            if end.is_alive and end.is_up:
                self._see_off(end, deadline)
        self._forget()
        self._poll.close()
        os.close(self._bell)
        self._page.close()

    # --------------------------------------------------------------------------------------------

    @property
    def _reign(self) -> int:
        return self._token or self._page.read().token

    def _order(self, order: Launch | Stop | Kill, descriptors: Sequence[int] = ()) -> None:
        guard = next((end for end in self._ends if end.name == "guard"), None)
        if guard is not None:
            with contextlib.suppress(OSError):  # it has died: `events` tells what follows
                guard.wire.send(order, descriptors)
        elif not self._has_orphans:
            self._token = 0
            self._pending.append(Dead(order.token, 0.0, cause="nothing was running"))
            os.eventfd_write(self._bell, 1)

    def _heard(self, message: Message) -> list[Event]:
        if isinstance(message, Dead) and not message.left:
            if message.token != self._token:
                return []  # has been told: it died by itself, and an order to kill it was late
            self._token = 0
            for end in self._ends:
                if end.name == "guard":
                    with contextlib.suppress(OSError):
                        end.wire.send(Seen(message.token))
        return [message] if isinstance(message, (Started, Exited, Fencing, Dead)) else []

    def _end_late(self) -> None:
        """A guard below a watcher is not known before it is up, and must not wake up to orders."""
        watcher, guard = self._ends
        cause = f"did not come up within {START:g} s"
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watcher.process, signal.SIGSTOP)  # it starts no guard now
            if not guard.is_up:
                guard.cause = cause
                tree.kill(tree.descendants(watcher.pid))
            watcher.cause = watcher.cause or cause
            signal.pidfd_send_signal(watcher.process, signal.SIGKILL)

    def _lost(self) -> list[Event]:
        """Both guards are gone."""
        watcher, *_ = self._ends
        first = [end for end in self._ends if not end.is_sent_away] or self._ends
        causes = ", ".join(f"{end.name} {end.cause}" for end in first)
        events: list[Event] = []
        was_up = all(end.is_up for end in self._ends)
        self._forget()
        if self._token:
            if watcher.status == 0:  # it left when nothing was alive any more
                events.append(Dead(self._token, 0.0, cause="its guards are gone"))
                self._token = 0
            else:
                self._has_orphans = True
                events += self._fence(self._setup.kill)
        return [*events, GuardLost(causes, was_up)]

    def _fence(self, patience: float) -> list[Event]:
        """In place of the guards. Told once while it fails, and once when it is done."""
        begun = now()
        is_first = patience > 0
        left: tuple[str, ...] = ("whatever it started: control does not know its own children",)
        if self._owned is not None:
            left = tree.fence_orphans(set(self._owned()), patience)
        if left and not is_first:
            return []
        dead = Dead(self._token, now() - begun, left, "both guards were lost")
        if not left:
            self._token = 0
            self._has_orphans = False
        return [dead]

    def _see_off(self, end: End, deadline: float) -> None:
        """Wait for its end. One that is frozen, and has nothing to kill or to let go, is killed."""
        if not self._page.read().token and not wait_readable(
            end.process, time.monotonic() + FROZEN
        ):
            signal.pidfd_send_signal(end.process, signal.SIGKILL)
        wait_readable(end.process, deadline)
        end.look(self._poll)

    def _add(self, end: End) -> None:
        self._ends.append(end)
        end.register(self._poll)

    def _forget(self) -> None:
        for end in self._ends:
            end.close(self._poll)
        self._ends = []
