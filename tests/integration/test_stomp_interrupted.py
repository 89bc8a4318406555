"""A STOMP caller who reads his own receipts is interrupted: by signal handlers, and by forks."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from understudy.stomp import ReentrancyError
from understudy.stomp.wire import Wire
from understudy.testing.stomp_lab import (
    PATIENCE,
    StompLab,
    noted_readers,
    send_until_the_caller_reads,
)
from understudy.testing.stomp_peer import Talk, frames, serve

QUEUE = "/queue/q"


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


@pytest.fixture
def readers() -> Iterator[list[int]]:
    """The threads that have read, in order."""
    with noted_readers() as threads:
        yield threads


class Handled:
    """Runs something in a signal handler while the main thread reads."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._before: Any = None
        self.calls = 0

    def __enter__(self) -> Handled:
        self._before = signal.signal(signal.SIGUSR1, self._run)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGUSR1, self._before)

    def _run(self, *_: object) -> None:
        self.calls += 1
        self._work()

    def interrupt(self) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def test_a_signal_handler_may_send_while_the_caller_it_interrupts_reads(
    lab: StompLab, readers: list[int]
) -> None:
    bodies: list[bytes] = []
    interrupting = threading.Event()

    def take(talk: Talk) -> None:
        talk.log_in()
        for _, headers, body in frames(talk):
            bodies.append(body)
            if body == b"slow":
                threading.Timer(0.2, handled.interrupt).start()
                interrupting.set()
                held = headers  # its receipt comes only after the handler's message
                continue
            talk.receipt(headers)
            if body == b"handler":
                talk.receipt(held)

    connection = lab.connect(lab.peer(take), timeout=60000)
    with Handled(lambda: connection.send(QUEUE, "handler")) as handled:
        send_until_the_caller_reads(connection, readers, QUEUE)
        connection.send(QUEUE, "slow")
    assert interrupting.is_set()
    assert bodies[-2:] == [b"slow", b"handler"]


def test_a_signal_handler_in_the_middle_of_our_work_is_told_so(lab: StompLab) -> None:
    """Nobody could read the receipt that it would wait for."""
    connection = lab.connect(lab.peer(serve), timeout=-1)
    session = connection.transport.session
    calls: list[Callable[[], object]] = [
        lambda: connection.send(QUEUE, "x"),
        lambda: connection.subscribe(QUEUE, id="1"),
        lambda: connection.flush(),
    ]
    supervisors = session.supervisor._control.lock
    for work in (session.lock, session.link.reading, session.link.wire._lock, supervisors):
        for call in calls:
            with work, pytest.raises(ReentrancyError, match="leave a note"):
                call()
    for call in calls:
        call()


def test_a_signal_handler_may_wait_within_a_callers_wait(lab: StompLab) -> None:
    """A poll object serves one wait at a time; another one in it is a RuntimeError."""
    connection = lab.connect(lab.peer(serve))
    wire = connection.transport.session.link.wire
    with Handled(lambda: wire.poll(0)) as handled:
        threading.Timer(0.1, handled.interrupt).start()
        assert wire.poll(0.5)
        assert handled.calls == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("which", ["reading", "session", "supervisor"])
def test_a_child_gets_the_lock_that_it_was_forked_in_waiting_for(lab: StompLab, which: str) -> None:
    """A signal handler forks while its thread waits for one that another thread holds."""
    session = lab.connect(lab.peer(serve)).transport.session
    lock = {
        "reading": session.link.reading,
        "session": session.lock,
        "supervisor": session.supervisor._control.lock,
    }[which]
    children: list[int] = []
    is_held = threading.Event()

    def work() -> None:
        with lock:
            is_held.set()
            time.sleep(0.2)  # for the other to come to wait
            handled.interrupt()
            time.sleep(0.2)

    def fork() -> None:
        children.append(os.fork())
        if children[-1] == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # ends a child that hangs

    with Handled(fork) as handled:
        threading.Thread(target=work).start()
        is_held.wait(PATIENCE)
        with lock:
            if children[-1:] == [0]:
                os._exit(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children] == [0]


@pytest.mark.parametrize(
    "raised",
    [
        TimeoutError("mine"),
        ConnectionResetError(104, "mine"),
        ValueError("mine"),
        TypeError("mine"),
    ],
)
def test_what_a_signal_handler_raises_reaches_the_application(
    lab: StompLab, readers: list[int], raised: Exception
) -> None:
    """Not taken for a broken wire, wherever it comes; F53."""
    connection = lab.connect(lab.peer(serve))

    def fail() -> None:
        raise raised

    with Handled(fail) as handled:
        for name in ("send", "recv"):
            send_until_the_caller_reads(connection, readers, QUEUE)
            Interrupted.replace(connection.transport.session.link.wire, name)
            with pytest.raises(type(raised), match="mine"):
                connection.send(QUEUE, "x")
        assert handled.calls == 2
    connection.send(QUEUE, "x")


class Interrupted(socket.socket):
    """A signal comes within a call."""

    name = ""

    @classmethod
    def replace(cls, wire: Wire, name: str) -> None:
        assert wire._sock is not None
        other = cls(fileno=os.dup(wire._sock.fileno()))
        other.setblocking(False)
        other.name = name
        wire._sock.close()
        wire._sock = other

    def send(self, *args: Any) -> int:
        self._interrupt("send")
        return super().send(*args)

    def recv(self, *args: Any) -> bytes:
        self._interrupt("recv")
        return super().recv(*args)

    def _interrupt(self, name: str) -> None:
        if name == self.name:
            signal.raise_signal(signal.SIGUSR1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_a_signal_handler_does_not_go_on_with_the_send(
    lab: StompLab, readers: list[int]
) -> None:
    """It returns into a call of its parent's, whose receipt never comes to it."""
    children: list[int] = []

    def take(talk: Talk) -> None:
        talk.log_in()
        for _, headers, body in frames(talk):
            if body == b"slow":
                handled.interrupt()
                time.sleep(0.3)
            talk.receipt(headers)

    connection = lab.connect(lab.peer(take), timeout=-1)
    with Handled(lambda: children.append(os.fork())) as handled:
        send_until_the_caller_reads(connection, readers, QUEUE)
        try:
            connection.send(QUEUE, "slow")
        except Exception as exc:
            if children[-1] == 0:
                os._exit(0 if "forked" in str(exc) else 1)
            raise
        if children[-1] == 0:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
