"""The guard: the parent of the broker. Drives a custody with real clocks and processes.

Rule: nothing here waits but for its own poll, so that nothing keeps it from the deadline; only with
the broker dead and control gone does it call the lock's backend, which may block.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from understudyd.clock import now
from understudyd.guard import acts as does
from understudyd.guard import tree
from understudyd.guard.cgroup import Group
from understudyd.guard.custody import Custody, State
from understudyd.guard.launch import NOT_STARTED, start
from understudyd.guard.page import Page, Pulse
from understudyd.guard.release import release
from understudyd.guard.system import (
    Timer,
    become_subreaper,
    harden,
    name_process,
    thaw_with_parent,
)
from understudyd.guard.wire import Wire
from understudyd.guard.words import (
    Armed,
    Dead,
    Idle,
    Kill,
    Killing,
    Launch,
    Leave,
    Message,
    Ready,
    Seen,
    Setup,
    Started,
    Stop,
    Stuck,
)

__all__ = ["Children", "Post", "Surroundings", "report_up", "run"]

SLEPT = 0.1  # s that CLOCK_BOOTTIME may gain on CLOCK_MONOTONIC before the machine has slept
IGNORED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP")


@dataclass(frozen=True)
class Surroundings:
    """What a guard has to do with."""

    setup: Setup
    page: Page
    control: Wire
    process: int  # control's pidfd
    group: Group | None  # the broker's


def run(around: Surroundings, watcher: Wire) -> None:
    """Be the guard, until control is gone or sends us away."""
    name_process("understudyguard")
    thaw_with_parent()
    become_subreaper()
    oom_score = harden()
    custody = Custody(around.setup.kill, around.setup.patience)
    pulse = Pulse(around.page, "guard")
    post = Post(custody, around, Children(), pulse, watcher=watcher, oom_score=oom_score)
    report_up(around.control)
    post.run()


def report_up(control: Wire) -> None:
    """By a descriptor of our own making, which can't be taken for another process."""
    process = os.pidfd_open(os.getpid())
    with contextlib.suppress(OSError):  # control has left already
        control.send(Ready(os.getpid()), [process])
    os.close(process)


class Children:
    """Tells by a descriptor that children have ended. Ignores what would end this process: a guard
    leaves when control has left.

    One for the life of a process: a second one would not be told who ended before it was made.
    """

    def __init__(self) -> None:
        self.descriptor, self._end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for name in IGNORED:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 512):
                pass


class Post:
    """Where a custody stands watch: the guard's, or the watcher's that has taken over."""

    def __init__(
        self,
        custody: Custody,
        around: Surroundings,
        children: Children,
        pulse: Pulse,
        *,
        watcher: Wire | None = None,
        lock: int | None = None,
        oom_score: int = 0,
    ) -> None:
        self._custody = custody
        self._setup = around.setup
        self._page = around.page
        self._control = around.control
        self._process = around.process
        self._group = around.group
        self._watcher = watcher
        self._lock = lock  # our copy of its descriptor
        self._oom_score = oom_score
        self._broker = 0  # pid of its first process, while it is not reaped
        self._leader = 0  # the same, as its process group is called after it too
        self._told = -1  # where that tells why it could not start
        self._arrived: list[int] = []  # descriptors that came with an order
        self._events: deque[does.Event] = deque()
        self._is_over = False
        self._timer = Timer()
        self._pulse = pulse
        self._children = children
        self._poll = select.poll()
        self._ready: dict[int, Callable[[], None]] = {}
        mono = time.monotonic()
        self._gained = now() - mono  # of the two clocks' readings this order never errs upwards
        self._on(self._timer.descriptor, self._timer.clear)
        self._on(self._children.descriptor, self._some_ended)
        self._on(around.process, self._control_died)
        self._on(around.control.fileno(), self._ordered)
        if watcher is not None:
            self._on(watcher.fileno(), self._watcher_spoke)

    def feed(self, event: does.Event) -> None:
        self._events.append(event)

    def run(self) -> None:
        """Until there is nothing more to guard."""
        self._go_on()
        while not self._is_over:
            self._pulse.sign(now())
            self._timer.set(min(self._custody.due(self._page.read()), self._pulse.due))
            for descriptor, _ in self._poll.poll():
                if descriptor in self._ready:
                    self._ready[descriptor]()
            if self._has_slept():
                self.feed(does.Slept())
            self.feed(does.Tick())
            self._go_on()

    def _go_on(self) -> None:
        while self._events and not self._is_over:
            event = self._events.popleft()
            for action in self._custody.receive(event, self._page.read(), now()):
                _ACTIONS[type(action)](self, action)

    # --- what happens ---------------------------------------------------------------------------

    def _ordered(self) -> None:
        try:
            while (received := self._control.receive()) is not None:
                message, descriptors = received
                if isinstance(message, (Launch, Stop, Kill, Seen, Leave)):
                    self._arrived = descriptors
                    self.feed(message)
                    self._go_on()
                    for descriptor in self._arrived:  # the broker has its own copies by now
                        os.close(descriptor)
                    self._arrived = []
        except EOFError:
            self._off(self._control.fileno())
            self.feed(does.Lost(is_control=True))

    def _control_died(self) -> None:
        self._off(self._process)
        self.feed(does.Lost(is_control=True))

    def _watcher_spoke(self) -> None:
        assert self._watcher is not None
        try:
            while self._watcher.receive() is not None:
                pass
        except EOFError:
            self._off(self._watcher.fileno())
            self._watcher = None
            self.feed(does.Lost(is_control=False))

    def _some_ended(self) -> None:
        self._children.clear()
        ended, is_any_left = tree.reap()
        if self._broker in ended:
            status = ended[self._broker]
            self.feed(does.Ended(status, self._reason() if status == NOT_STARTED else ""))
            self._broker = 0
            os.close(self._told)
        state = self._custody.state
        if not is_any_left:
            self.feed(does.Empty())
        elif state is State.KILLING or (state is State.STOPPING and not self._broker):
            self.feed(self._left(is_killing=state is State.KILLING))

    def _has_slept(self) -> bool:
        boot = now()
        gained = boot - time.monotonic()
        has_slept = gained > self._gained + SLEPT
        if has_slept:
            self._gained = gained
        return has_slept

    # --- what to do -----------------------------------------------------------------------------

    def _start(self, action: does.Start) -> None:
        launch = action.launch
        descriptors = self._arrived
        if launch.has_lock:
            self._lock = os.dup(descriptors[0])
        self._speak(Armed(launch.token, launch.has_lock), descriptors[: int(launch.has_lock)])
        try:
            self._broker, self._told = start(launch, descriptors, self._group, self._oom_score)
        except OSError as error:  # no memory, or too many processes
            self.feed(does.Ended(NOT_STARTED, str(error)))
            return
        self._leader = self._broker
        self._send(Started(launch.token, self._broker))

    def _signal(self, action: does.Signal) -> None:
        if self._broker:
            with contextlib.suppress(PermissionError):  # another user's by sudo
                try:
                    os.killpg(self._broker, action.number)
                except ProcessLookupError:  # it has not begun its session yet
                    os.kill(self._broker, action.number)

    def _kill_all(self, _: does.KillAll) -> None:
        if self._broker:  # at once; to find the rest takes some milliseconds
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._broker, signal.SIGKILL)
        self._speak(Killing())
        if self._group is not None:
            members = filter(None, map(tree.look, self._group.members()))
            self._group.kill([p.pid for p in members if tree.is_spared(p, self._lock)])
        self.feed(self._left(is_killing=True))

    def _look(self, _: does.Look) -> None:
        self.feed(self._left(is_killing=False))

    def _left(self, *, is_killing: bool) -> does.Event:
        left = [
            process
            for process in tree.descendants(os.getpid())
            if not tree.is_spared(process, self._lock)
        ]
        if is_killing:
            tree.kill(left)
        if not left:
            return does.Empty()
        is_asked = any(process.group == self._leader for process in left)
        return does.Alive(tuple(map(str, left)), is_asked)

    def _tell(self, action: does.Tell) -> None:
        if isinstance(action.report, Dead) and action.report.left:
            self._speak(Stuck())
        self._send(action.report)

    def _let_go(self, _: does.LetGo) -> None:
        self._have_watcher_let_go()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _release(self, action: does.Release) -> None:
        self._have_watcher_let_go()
        descriptor, self._lock = self._lock, None
        lock = self._setup.lock
        if lock is not None:
            release(lock, action.token, descriptor, self._page.read().deadline)
        elif descriptor is not None:
            os.close(descriptor)

    def _have_watcher_let_go(self) -> None:
        """Before anybody relies on it; a frozen watcher is not waited for."""
        if self._watcher is None:
            return
        self._speak(Idle())
        answer = select.poll()
        answer.register(self._watcher.fileno(), select.POLLIN)
        answer.poll(self._setup.slack * 1000)

    def _end_control(self, _: does.EndControl) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def _quit(self, _: does.Quit) -> None:
        self._is_over = True

    # --------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        """To control. If it is gone, or has not read for very long, poll tells or the deadline."""
        with contextlib.suppress(OSError):
            self._control.send(message)

    def _speak(self, message: Message, descriptors: list[int] | None = None) -> None:
        """To the watcher. If it is gone, poll tells."""
        if self._watcher is not None:
            with contextlib.suppress(OSError):
                self._watcher.send(message, descriptors or [])

    def _reason(self) -> str:
        return os.read(self._told, 512).decode(errors="replace")

    def _on(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._ready[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _off(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._ready[descriptor]


_ACTIONS: dict[type, Callable[..., None]] = {
    does.Start: Post._start,
    does.Signal: Post._signal,
    does.KillAll: Post._kill_all,
    does.Look: Post._look,
    does.Tell: Post._tell,
    does.LetGo: Post._let_go,
    does.Release: Post._release,
    does.EndControl: Post._end_control,
    does.Quit: Post._quit,
}
