"""A STOMP session without a network: what callers do while its reader is at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from understudy.core.endpoint import Endpoint
from understudy.core.uri import parse
from understudy.failover.deadline import NEVER
from understudy.stomp import inner as inner_module
from understudy.stomp.commands import Commands
from understudy.stomp.errors import ConnectionLost
from understudy.stomp.incoming import Incoming
from understudy.stomp.inner import Handshake, Inner
from understudy.stomp.message import OutMessage
from understudy.stomp.session import Session
from understudy.stomp.subscriptions import Command, Subscription
from understudy.stomp.transport import Transport
from understudy.stomp.wire import Wire, WireBroken
from understudy.testing.interrupting import is_interrupted
from understudy.wire.stomp import FrameParser, RawFrame
from understudy.wire.stomp_dialects import ACTIVEMQ, RABBITMQ

URI = parse("failover:(stomp://a)?timeout=5000")


class QuietWire(Wire):
    """Keeps what is written; nothing comes unless a test says what."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[RawFrame] = []
        self.incoming: list[bytes] = []
        self._parser = FrameParser()

    def send(self, *pieces: bytes | memoryview) -> None:
        self.frames += self._parser.feed(b"".join(pieces))

    def receive(self) -> bytes:
        return self.incoming.pop(0)

    def wait(self, deadline: object, *, reading: bool = True) -> None:
        """Nothing is waited for."""

    @property
    def commands(self) -> list[str]:
        return [frame.command for frame in self.frames]


@pytest.fixture
def session() -> Iterator[Session]:
    one = Session(URI, Handshake(), Transport(), decode=bytes.decode)
    yield one
    one.close()


def inner() -> Inner:
    endpoint: Endpoint = URI.endpoints[0]
    one = Inner(endpoint, QuietWire(), "1.2")
    one.dialect = RABBITMQ
    return one


def delivery(number: str) -> RawFrame:
    return RawFrame("MESSAGE", {"ack": number, "subscription": "s"}, b"")


class Watched(dict[str, str]):
    """Notes whether the lock was held at each change."""

    def __init__(self, lock: threading.RLock) -> None:
        super().__init__()
        self.lock = lock
        self.were_locked: list[bool] = []

    def __setitem__(self, key: str, value: str) -> None:
        self.were_locked.append(self.lock._is_owned())  # type: ignore[attr-defined]
        super().__setitem__(key, value)


def test_deliveries_are_noted_under_the_lock_under_which_acks_go_through_them(
    session: Session,
) -> None:
    """Else `ack:client` meets a dictionary that changes its size."""
    link = inner()
    link.unacked = watched = Watched(session.lock)
    Incoming(session, bytes.decode).take(link, [delivery("1")])
    assert dict(watched) == {"1": "s"}
    assert watched.were_locked == [True]


def test_an_abort_puts_acknowledged_deliveries_back_before_later_ones(session: Session) -> None:
    """`ack:client` covers what came before: a later delivery must not be among them."""
    session.link = session.reader.inner = link = inner()
    headers = {"id": "s", "destination": "/queue/q", "ack": "client"}
    commands = Commands(session)
    session.subscriptions["s"] = Subscription(headers)
    for number in "123":
        link.unacked[number] = "s"
    commands.begin({"transaction": "t"})
    commands.acknowledge("ACK", {"id": "2", "transaction": "t"})
    commands.abort({"transaction": "t"})
    wire: Any = link.wire
    wire.frames.clear()
    commands.acknowledge("ACK", {"id": "2"})
    assert [frame.headers["id"] for frame in wire.frames] == ["1", "2"]
    assert list(link.unacked) == ["3"]


def test_what_is_unsubscribed_while_others_are_restored_is_not_subscribed_again(
    session: Session,
) -> None:
    """Else the broker goes on sending what nobody has asked for any more."""
    for name in ("first", "second"):
        session.subscriptions[name] = Subscription({"id": name, "destination": "/queue/q"})
    link = inner()
    wire: Any = link.wire

    def answered() -> bytes:
        Commands(session).unsubscribe({"id": "second"})
        return b"RECEIPT\nreceipt-id:%b\n\n\0" % wire.frames[-1].headers["receipt"].encode()

    wire.receive = answered
    session.reader.inner = link
    session.reader._restore(link)
    assert [frame.headers["id"] for frame in wire.frames] == ["first"]
    assert session.link is link


def test_after_a_fork_the_sender_uses_the_lock_of_the_child(session: Session) -> None:
    """The other one was taken for the fork, and nobody lets it go in the child."""
    session.hold()
    session.abandon()
    done = threading.Event()

    def look() -> None:
        session.sender.tell_left_behind("the test says so")
        done.set()

    threading.Thread(target=look, daemon=True).start()
    assert done.wait(10)


def test_a_commit_whose_link_is_lost_before_it_is_written_waits_for_no_answer(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a later ERROR of the broker's would be laid at its door."""
    commands = Commands(session)
    commands.begin({"transaction": "t"})
    monkeypatch.setattr(commands, "_wait_begun", lambda *_: True)
    command = commands._write_commit(session.transactions["t"], {"transaction": "t"}, NEVER)
    assert command.is_lost
    assert not session.commands


def test_a_link_is_left_when_a_signal_handler_raises_before_the_write(session: Session) -> None:
    """Where receipts are cumulative the next one would confirm what was never sent."""
    session.link = link = inner()
    link.dialect = ACTIVEMQ
    wire: Any = link.wire

    def raises(*_: bytes) -> None:
        raise KeyboardInterrupt

    write, wire.send = wire.send, raises
    lost, later = (OutMessage({"destination": "/queue/q"}, b"", version="1.2") for _ in range(2))
    session.sender.outbox.offer(lost, lost.size, lost.key)
    with pytest.raises(KeyboardInterrupt), session.lock:
        session.something_to_send()
    assert wire.severed is not None
    wire.send = write
    session.sender.link_lost()
    session.link = link = inner()
    session.sender.outbox.offer(later, later.size, later.key)
    with session.lock:
        session.something_to_send()
    wire = link.wire
    assert [f.headers["x-understudy-id"] for f in wire.frames] == [lost.key, later.key]


def reading_session(
    come: bytes = b"RECEIPT\nreceipt-id:u1\n\n\0",
) -> tuple[Session, Inner, OutMessage]:
    """A message is on its way, and its receipt, or what else is said, has come."""
    session = Session(URI, Handshake(), Transport(), decode=bytes.decode)
    session.link = session.reader.inner = link = inner()
    wire: Any = link.wire
    wire.incoming = [come]
    message = OutMessage({"destination": "/queue/q"}, b"", version="1.2")
    session.sender.outbox.offer(message, message.size, message.key)
    with session.lock:
        session.something_to_send()
    return session, link, message


def test_a_read_that_a_signal_handler_ends_leaves_a_link_that_nobody_reads_on() -> None:
    """Its frames are nobody's: a receipt among them would be missed, and its message for ever."""
    line, was_interrupted = 0, True
    while was_interrupted:
        line += 1
        session, link, message = reading_session()
        was_interrupted = is_interrupted(
            partial(session.reader._read, link), line, "understudy/stomp/"
        )
        assert link.is_torn or message.is_settled or link.wire.incoming, f"line {line}"  # type: ignore[attr-defined]
        if link.is_torn:
            with pytest.raises(WireBroken):
                session.reader._read(link)
        session.close()
    assert line > 20


@pytest.mark.parametrize(
    ("answer", "within"),
    [
        (b"RECEIPT\nreceipt-id:u1\n\n\0", "core/outbox"),
        (b"RECEIPT\nreceipt-id:u1\n\n\0", "understudy/stomp/"),
        (b"RECEIPT\nreceipt-id:c1\n\n\0", "understudy/stomp/"),
        (b"ERROR\nreceipt-id:u1\n\n\0", "core/outbox"),
        (b"ERROR\nreceipt-id:u1\n\n\0", "understudy/stomp/"),
        (b"ERROR\nreceipt-id:c1\n\n\0", "understudy/stomp/"),
    ],
)
def test_a_read_that_a_signal_handler_ends_forgets_nobody_who_waits(
    answer: bytes, within: str
) -> None:
    """Another thread's receipt, say: who is neither told nor known any more waits for ever."""
    line, was_interrupted = 0, True
    while was_interrupted:
        line += 1
        session, link, message = reading_session(answer)
        _, command = session.command("SUBSCRIBE")
        was_interrupted = is_interrupted(partial(session.reader._read, link), line, within)
        session.reader._lost(link, "the test says so", None)
        keys = session.sender.outbox.keys()
        assert message.is_settled or message.key in keys, f"line {line}"
        assert command.is_over, f"line {line}"
        session.close()
    assert line > 10


def test_the_first_answer_to_a_command_counts() -> None:
    """It may be told, and its link be lost before it is forgotten: it is not to be asked again."""
    command = Command("COMMIT")
    command.end()
    command.lose()
    command.end(ConnectionLost("the test says so"))
    assert (command.is_done, command.is_lost, command.error) == (True, False, None)


def test_a_tracked_send_that_a_signal_handler_ends_is_not_sent_later() -> None:
    """It has raised: the application may send it again itself."""
    line, was_interrupted = 0, True
    while was_interrupted:
        line += 1
        uri = parse("failover:(stomp://a)?trackMessages=true")
        session = Session(uri, Handshake(), Transport(), decode=bytes.decode)
        message = OutMessage({"destination": "/queue/q"}, b"", version="1.2", is_tracked=True)
        was_interrupted = is_interrupted(
            partial(session.sender.send, message, NEVER), line, "adapters/understudy/stomp/"
        )
        left = [] if was_interrupted else [message.key]
        assert session.sender.outbox.keys() == left, f"line {line}"
        session.close()
    assert line > 5


def test_a_child_waits_for_no_thread_of_its_parents(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that reads, or that tells a listener something, when a signal handler forks."""
    monkeypatch.setattr(inner_module, "FORK_PATIENCE", 0.01)
    link = inner()
    is_held, is_over = threading.Event(), threading.Event()

    def work() -> None:
        with link.reading, session.dispatcher._lock:
            is_held.set()
            is_over.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert is_held.wait(10)
    try:
        for owner in (link, session):
            owner.hold()
            owner.abandon()
        for lock in (link.reading, session.dispatcher._lock, session.lock):
            assert lock.acquire(blocking=False)
            lock.release()
    finally:
        is_over.set()
        thread.join()


def test_what_comes_on_a_link_that_was_left_is_nobodys(session: Session) -> None:
    """A caller may be about to read it: its receipts would be taken for those of the next link."""
    one, link, message = reading_session()
    one.reader._lost(link, "the test says so", None)
    with pytest.raises(WireBroken):
        one.reader._read(link)
    assert not message.is_settled
    one.close()


def test_a_call_after_close_is_not_said_to_have_waited(session: Session) -> None:
    session.close()
    with pytest.raises(ConnectionLost, match=r"is closed: call connect\(\) first"):
        session.sender.flush(NEVER)
    with pytest.raises(ConnectionLost, match="closed while this call waited"):
        session.wait_connected(NEVER)
