"""A STOMP caller reads his own receipts; what else may come meanwhile is not left lying."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from understudy.stomp.wire import Wire
from understudy.testing.stomp_lab import (
    PATIENCE,
    Listener,
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
    send_until_the_caller_reads(connection, readers, QUEUE)


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
    send_until_the_caller_reads(connection, readers, QUEUE)
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
    send_until_the_caller_reads(connection, readers, QUEUE)
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
    send_until_the_caller_reads(connection, readers, QUEUE)
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
    send_until_the_caller_reads(connection, readers, QUEUE)
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
    send_until_the_caller_reads(connection, readers, QUEUE)
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
    send_until_the_caller_reads(connection, readers, QUEUE)
    silent.set()
    closing = threading.Timer(0.3, connection.disconnect)
    closing.start()
    with pytest.raises(Exception, match="closed"):
        connection.send(QUEUE, "x")
    closing.join()


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
