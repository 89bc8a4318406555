"""A STOMP caller reads his own receipts; what else may come meanwhile is not left lying."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from understudy.stomp import ReentrancyError, reader
from understudy.stomp.wire import Wire
from understudy.testing.stomp_lab import PATIENCE, Listener, StompLab
from understudy.testing.stomp_peer import Talk, frames, serve

QUEUE = "/queue/q"


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that have read, in order."""
    threads: list[int] = []
    read = reader.Reader._read

    def noted(self: reader.Reader, inner: Any) -> None:
        threads.append(threading.get_ident())
        read(self, inner)

    monkeypatch.setattr(reader.Reader, "_read", noted)
    return threads


def send_until_the_caller_reads(connection: Any, readers: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    readers.clear()
    while readers[-5:] != [threading.get_ident()] * 5:
        assert time.monotonic() < deadline, readers[-5:]
        connection.send(QUEUE, "x")


def after_sends(count: int, then: Callable[[Talk, dict[str, str]], bool]) -> Callable[..., None]:
    """A broker that confirms so many messages, and asks ``then`` whether to go on with each."""

    def behaviour(talk: Talk) -> None:
        talk.log_in()
        sent = 0
        for command, headers, _ in frames(talk):
            sent += command == "SEND"
            if sent > count and command == "SEND" and not then(talk, headers):
                return
            talk.receipt(headers)

    return behaviour


def test_a_caller_reads_his_receipts_himself(lab: StompLab, readers: list[int]) -> None:
    connection = lab.connect(lab.peer(serve))
    send_until_the_caller_reads(connection, readers)


def test_where_a_caller_cannot_poll_the_thread_reads(
    lab: StompLab, readers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows."""
    monkeypatch.setattr(Wire, "can_poll", False)
    connection = lab.connect(lab.peer(serve))
    readers.clear()
    for _ in range(20):
        connection.send(QUEUE, "x")
    assert threading.get_ident() not in readers
    assert not connection.transport.session.reader._turns.is_parked


def test_what_a_subscription_brings_is_not_left_to_the_next_sender(
    lab: StompLab, readers: list[int]
) -> None:
    def deliver(talk: Talk) -> None:
        talk.log_in()
        for command, headers, _ in frames(talk):
            talk.receipt(headers)
            if command == "SUBSCRIBE":
                for number in range(3):
                    time.sleep(0.4)  # longer than a parked thread looks away
                    talk.frame("MESSAGE", {"subscription": "1", "message-id": number, "ack": "a"})

    connection = lab.connect(lab.peer(deliver))
    listener = Listener()
    connection.set_listener("", listener)
    send_until_the_caller_reads(connection, readers)
    connection.subscribe(QUEUE, id="1")
    listener.wait_until(lambda self: len(self.frames) == 3)
    assert threading.get_ident() not in readers[-3:]


def test_the_answer_to_a_reply_to_is_not_left_to_the_next_sender(
    lab: StompLab, readers: list[int]
) -> None:
    def answer(talk: Talk) -> None:
        talk.log_in()
        for _, headers, _ in frames(talk):
            talk.receipt(headers)
            if "reply-to" in headers:
                talk.frame("MESSAGE", {"subscription": headers["reply-to"], "message-id": "1"})

    connection = lab.connect(lab.peer(answer))
    listener = Listener()
    connection.set_listener("", listener)
    send_until_the_caller_reads(connection, readers)
    connection.send(QUEUE, "?", headers={"reply-to": "/temp-queue/a"})
    listener.wait_until(lambda self: len(self.frames) == 1)


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_the_end_is_noticed_while_nobody_is_inside(
    lab: StompLab, readers: list[int], how: str
) -> None:
    """F21: the thread is parked, and no further call comes."""
    end = threading.Event()

    def part(talk: Talk) -> None:
        talk.log_in()
        for command, headers, _ in frames(talk):
            talk.receipt(headers)
            if command == "SEND" and end.is_set():
                if how == "reset":
                    talk.reset()
                return

    connection = lab.connect(lab.peer(part, serve))
    send_until_the_caller_reads(connection, readers)
    end.set()
    connection.send(QUEUE, "x")
    lab.wait_for_event("Interrupted")
    lab.wait_until_resumed()


LAST_WORDS: dict[str, Callable[[Talk], object]] = {
    "closes": lambda talk: None,
    "resets": lambda talk: talk.reset(),
    "lies": lambda talk: talk.write(b"RECEIPT\nno colon\n\n\0"),
    "says a number that is none": lambda talk: talk.write(
        b"RECEIPT\nreceipt-id:u" + b"9" * 5000 + b"\n\n\0NONSENSE\n\n\0"
    ),
    "cuts a receipt": lambda talk: talk.write(b"RECEIPT\nreceipt-"),
    "refuses without a name": lambda talk: talk.frame("ERROR", {"message": "no"}),
}


@pytest.mark.parametrize("last", LAST_WORDS.values(), ids=LAST_WORDS.keys())
def test_a_caller_who_finds_the_connection_broken_gets_his_receipt_elsewhere(
    lab: StompLab, readers: list[int], last: Callable[[Talk], object]
) -> None:
    """F21, F38."""
    end = threading.Event()

    def break_off(talk: Talk, headers: dict[str, str]) -> bool:
        if end.is_set():
            last(talk)
        return not end.is_set()

    peer = lab.peer(after_sends(0, break_off), serve)
    connection = lab.connect(peer)
    send_until_the_caller_reads(connection, readers)
    end.set()
    connection.send(QUEUE, "x")
    assert peer.accepted == 2


def test_a_caller_who_reads_does_not_wait_for_a_frozen_broker(
    lab: StompLab, readers: list[int]
) -> None:
    """F36: two heartbeats are enough."""
    freeze = threading.Event()

    def stop(talk: Talk) -> None:
        talk.log_in(beats="200,200")
        for _, headers, _ in frames(talk):
            if freeze.is_set():
                talk.wait_for_end()
            talk.receipt(headers)

    connection = lab.connect(lab.peer(stop, serve), heartbeat=200)
    send_until_the_caller_reads(connection, readers)
    freeze.set()
    connection.send(QUEUE, "x")
    lab.wait_until_resumed()


def test_disconnect_ends_the_wait_of_a_caller_who_reads(lab: StompLab, readers: list[int]) -> None:
    """Another thread closes; F53."""
    silent = threading.Event()

    def fall_silent(talk: Talk, headers: dict[str, str]) -> bool:
        if silent.is_set():
            talk.wait_for_end()
        return True

    connection = lab.connect(lab.peer(after_sends(0, fall_silent)), timeout=-1)
    send_until_the_caller_reads(connection, readers)
    silent.set()
    closing = threading.Timer(0.3, connection.disconnect)
    closing.start()
    with pytest.raises(Exception, match="closed"):
        connection.send(QUEUE, "x")
    closing.join()


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
        send_until_the_caller_reads(connection, readers)
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
            send_until_the_caller_reads(connection, readers)
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
        send_until_the_caller_reads(connection, readers)
        try:
            connection.send(QUEUE, "slow")
        except Exception as exc:
            if children[-1] == 0:
                os._exit(0 if "forked" in str(exc) else 1)
            raise
        if children[-1] == 0:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_several_callers_at_once_get_all_their_receipts(lab: StompLab) -> None:
    peer = lab.peer(serve)
    connection = lab.connect(peer)
    failures: list[BaseException] = []

    def work(pause: float) -> None:
        try:
            for _ in range(100):
                connection.send(QUEUE, "x")
                time.sleep(pause)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(p,), daemon=True) for p in (0, 0, 0.003, 0.01)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not failures
    assert peer.accepted == 1
