"""The watcher: the guard's parent. Takes over when the guard dies or is frozen.

Rules
* It is a child subreaper: what the guard had below it becomes its own when the guard dies, also
  when control died in the same moment.
* It has a copy of the lock's descriptor: a broker may have closed its own.
* It never doubts a guard that has nothing in custody.
* Who is frozen when its parent dies is thawed by the kernel: the watcher with its copy of the
  lock's descriptor by the death of control, and the guard by that of the watcher.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from understudyd.clock import now
from understudyd.guard import guard, tree
from understudyd.guard.acts import Lost, TakeOver
from understudyd.guard.cgroup import Group
from understudyd.guard.custody import Custody
from understudyd.guard.guard import Children, Post, Surroundings, report_up
from understudyd.guard.page import Page, Pulse
from understudyd.guard.suspicion import Suspicion
from understudyd.guard.system import (
    Timer,
    become_subreaper,
    harden,
    name_process,
    thaw_with_parent,
)
from understudyd.guard.wire import Wire
from understudyd.guard.words import Armed, Idle, Killing, Setup, Stuck
from understudyd.lock.open import open_backend

__all__ = ["main"]


def main() -> None:
    """Of a fresh interpreter that `client` has started: become the watcher, with a guard below."""
    inherited = [int(argument) for argument in sys.argv[2:]]
    to_control, guards, page, parent = inherited
    _close_all_but((to_control, guards, page))
    try:
        process = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    thaw_with_parent()
    if os.getppid() != parent:
        return
    control = Wire(socket.socket(fileno=to_control))
    received = control.receive()
    assert received is not None
    setup = received[0]
    assert isinstance(setup, Setup)
    if setup.lock is not None:  # what its libraries need is loaded now, not when control has died
        open_backend(setup.lock.uri, setup.lock.group, setup.lock.attempt).close()
    become_subreaper()  # before there is anything to inherit
    group = Group.create()
    gc.collect()
    gc.freeze()  # what is shared with the guard stays shared
    ours, theirs = Wire.pair()
    pid = os.fork()
    if pid == 0:
        control.close()
        ours.close()
        wire = Wire(socket.socket(fileno=guards))
        around = Surroundings(setup, Page(page), wire, process, group)
        _end_with(lambda: guard.run(around, theirs))
    os.close(guards)
    theirs.close()
    around = Surroundings(setup, Page(page), control, process, group)
    _end_with(lambda: _Watcher(around, ours, pid).run())


def _close_all_but(wanted: Sequence[int]) -> None:
    """Of what control has open without its knowledge, perhaps a listening socket, a broker must not
    keep a copy."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in wanted:
            with contextlib.suppress(OSError):  # the one by which the folder was read
                os.close(int(name))
    for descriptor in wanted:
        os.set_inheritable(descriptor, False)


def _end_with(work: Callable[[], None]) -> NoReturn:
    """Exit code 0 says that nothing is left to guard; so nothing else may end with it."""
    try:
        work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


class _Watcher:
    def __init__(self, around: Surroundings, below: Wire, pid: int) -> None:
        name_process("understudywatch")
        harden()
        self._around = around
        self._page = around.page
        self._control = around.control
        self._guard = below
        self._pid = pid
        self._lock: int | None = None
        self._has_lock = False
        self._suspicion = Suspicion(around.setup.kill, around.setup.slack)
        self._is_control_lost = False
        self._is_killed = False  # the guard, by us
        self._exit: int | None = None  # the guard's
        self._timer = Timer()
        self._pulse = Pulse(around.page, "watcher")
        self._children = Children()
        self._poll = select.poll()
        self._ready = {
            self._timer.descriptor: self._timer.clear,
            self._children.descriptor: self._some_ended,
            around.process: self._control_died,
            around.control.fileno(): self._control_spoke,
            below.fileno(): self._guard_spoke,
        }
        for descriptor in self._ready:
            self._poll.register(descriptor, select.POLLIN)
        report_up(around.control)

    def run(self) -> None:
        self._some_ended()  # before anybody listened
        while self._exit is None:
            moment = now()
            self._pulse.sign(moment)
            due = self._pulse.due
            if not self._is_killed:
                suspect = self._suspicion.due(self._page.read())
                if moment >= suspect:
                    os.kill(self._pid, signal.SIGKILL)
                    self._is_killed = True
                due = min(due, suspect)
            self._timer.set(due)
            for descriptor, _ in self._poll.poll():
                if descriptor in self._ready:
                    self._ready[descriptor]()
        self._guard_spoke()  # its last words
        if self._exit != 0 or self._suspicion.token:
            self._take_over()
        if self._around.group is not None:
            self._around.group.remove()

    def _take_over(self) -> None:
        custody = Custody(self._around.setup.kill, self._around.setup.patience)
        post = Post(custody, self._around, self._children, self._pulse, lock=self._lock)
        post.feed(TakeOver(self._suspicion.token, self._has_lock))
        if self._is_control_lost:
            post.feed(Lost(is_control=True))
        post.run()

    # --------------------------------------------------------------------------------------------

    def _control_spoke(self) -> None:
        try:
            while self._control.receive() is not None:
                pass
        except EOFError:
            self._off(self._control.fileno())
            self._lost_control()

    def _control_died(self) -> None:
        self._off(self._around.process)
        self._lost_control()

    def _lost_control(self) -> None:
        self._is_control_lost = True
        self._suspicion.control_lost(now())

    def _guard_spoke(self) -> None:
        try:
            while (received := self._guard.receive()) is not None:
                message, descriptors = received
                assert isinstance(message, (Armed, Killing, Stuck, Idle))
                self._suspicion.heard(message, now())
                if isinstance(message, Armed):
                    self._close_lock()
                    self._has_lock = message.has_lock
                    self._lock = descriptors[0] if descriptors else None
                elif isinstance(message, Idle):
                    self._close_lock()
                    with contextlib.suppress(OSError):
                        self._guard.send(message)
        except EOFError:
            self._off(self._guard.fileno())

    def _some_ended(self) -> None:
        self._children.clear()
        ended, _ = tree.reap()
        self._exit = ended.get(self._pid)

    def _close_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _off(self, descriptor: int) -> None:
        if descriptor in self._ready:
            self._poll.unregister(descriptor)
            del self._ready[descriptor]
