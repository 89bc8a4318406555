"""Fanout: one message to several brokers, with members that obey the test."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from understudy.core import fanout as rules
from understudy.core.events import Connected, Event, GaveUp, Interrupted, Resumed
from understudy.errors import ConnectFailed, Refused, SendTimeout
from understudy.failover.deadline import NEVER, Deadline
from understudy.failover.fanout import Fanout

PATIENCE = 10.0  # s; nothing here takes that long unless it hangs


class Broker:
    """A member whose broker takes messages while `works` is set."""

    def __init__(self, name: str, *, reachable: bool = True) -> None:
        self.name = name
        self.took: list[str] = []
        self.works = threading.Event()
        self.works.set()
        self.reachable = threading.Event()
        if reachable:
            self.reachable.set()
        self.opened = threading.Event()
        self.refuses = False
        self.is_closed = False

    def open(self, on_event: Callable[[Event], object]) -> None:
        self.reachable.wait(PATIENCE)
        if self.is_closed:
            raise ConnectFailed("closed")
        self.tell = on_event
        on_event(Connected(self.name))
        self.opened.set()

    def send(self, message: str, deadline: Deadline) -> None:
        if not self.works.wait(deadline.timeout()):
            raise SendTimeout(message_id=message)
        if self.is_closed:
            raise ConnectFailed("closed")
        if self.refuses:
            raise Refused(f"{self.name} refuses {message}", message_id=message)
        self.took.append(message)

    def close(self) -> None:
        self.is_closed = True
        self.reachable.set()
        self.works.set()


@contextmanager
def fanout(*brokers: Broker, need: int) -> Iterator[Fanout[str]]:
    fan = Fanout(brokers, need)
    for broker in brokers:
        if broker.reachable.is_set():
            assert broker.opened.wait(PATIENCE)
    try:
        yield fan
    finally:
        fan.close(Deadline(0))


def send_in_thread(fan: Fanout[str], message: str) -> tuple[threading.Thread, list[Exception]]:
    errors: list[Exception] = []

    def run() -> None:
        try:
            fan.send(message, message, Deadline(PATIENCE))
        except Exception as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def wait_for(fan: Fanout[str], is_so: Callable[[], bool]) -> None:
    with fan._changed:
        assert fan._changed.wait_for(is_so, PATIENCE)


class Told(logging.Filter):
    """Lets everything pass, and knows whether there was anything."""

    def __init__(self) -> None:
        super().__init__()
        self.at_all = threading.Event()

    def filter(self, record: logging.LogRecord) -> bool:
        self.at_all.set()
        return True


def join_lanes() -> None:
    for thread in threading.enumerate():
        if thread.name == "understudy-fanout":
            thread.join(PATIENCE)


def test_every_connected_broker_gets_each_message_in_order() -> None:
    """D09."""
    a, b, c = Broker("a"), Broker("b"), Broker("c")
    with fanout(a, b, c, need=3) as fan:
        for number in range(100):
            fan.send(str(number), str(number), NEVER)
    assert a.took == b.took == c.took == [str(number) for number in range(100)]


def test_a_send_blocks_until_enough_brokers_are_there() -> None:
    """D10."""
    a, b = Broker("a"), Broker("b", reachable=False)
    with fanout(a, b, need=2) as fan:
        thread, errors = send_in_thread(fan, "m")
        with pytest.raises(SendTimeout, match=r"minAckCount=2, but 1 .*not: b"):
            fan.send("late", "late", Deadline(0))
        assert a.took == []
        b.reachable.set()
        thread.join(PATIENCE)
    assert not errors
    assert a.took == b.took == ["m"]


def test_enough_confirms_are_enough() -> None:
    a, b = Broker("a"), Broker("b")
    b.works.clear()
    with fanout(a, b, need=1) as fan:
        fan.send("m", "m", Deadline(PATIENCE))
        assert a.took == ["m"]


def test_too_few_confirms_end_in_a_timeout_that_says_so() -> None:
    a, b = Broker("a"), Broker("b")
    b.works.clear()
    with fanout(a, b, need=2) as fan:
        with pytest.raises(SendTimeout, match="1 of 2 brokers confirmed") as caught:
            fan.send("m", "m", Deadline(0.2))
        assert caught.value.message_id == "m"
        assert caught.value.written


def test_a_refusal_counts_only_when_too_few_are_left() -> None:
    a, b, c = Broker("a"), Broker("b"), Broker("c")
    b.refuses = True
    with fanout(a, b, c, need=2) as fan:
        fan.send("m", "m", NEVER)
        c.refuses = True
        with pytest.raises(Refused):
            fan.send("n", "n", NEVER)


def test_a_broker_that_is_away_misses_messages_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b = Broker("a"), Broker("b")
    with fanout(a, b, need=1) as fan:
        b.tell(Interrupted("b"))
        fan.send("m", "m", NEVER)
        fan.send("n", "n", NEVER)
        b.tell(Resumed("b"))
        thread, errors = send_in_thread(fan, "o")
        thread.join(PATIENCE)
    assert not errors
    assert a.took[:2] == ["m", "n"]
    assert "o" in a.took + b.took
    assert set(b.took) <= {"o"}
    assert "b missed 2 messages" in caplog.text


def test_a_broker_that_lags_too_far_behind_misses_messages_and_that_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "LANE_SIZE", 2)
    a, b = Broker("a"), Broker("b")
    b.works.clear()
    with fanout(a, b, need=1) as fan:
        for number in range(10):
            fan.send(str(number), str(number), Deadline(PATIENCE))
        assert caplog.text == ""
        with caplog.filtering(told := Told()):
            b.works.set()
            assert told.at_all.wait(PATIENCE)
    join_lanes()
    assert b.took == [str(number) for number in range(len(b.took))]
    assert 2 <= len(b.took) <= 3
    assert f"b missed {10 - len(b.took)} messages" in caplog.text


def test_copies_that_were_still_to_be_sent_at_the_end_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b, c = Broker("a"), Broker("b"), Broker("c", reachable=False)
    b.works.clear()
    with fanout(a, b, c, need=1) as fan:
        for number in range(3):
            fan.send(str(number), str(number), Deadline(PATIENCE))
    assert "b did not confirm 3 messages before the end" in caplog.text
    join_lanes()
    assert "c missed 3 messages" in caplog.text


def test_close_lets_the_copies_that_were_taken_go(caplog: pytest.LogCaptureFixture) -> None:
    """Publish and close at once: every broker that was there has the messages."""
    a, b = Broker("a"), Broker("b")
    b.works.clear()
    with fanout(a, b, need=1) as fan:
        for number in range(3):
            fan.send(str(number), str(number), Deadline(PATIENCE))
        closing = threading.Thread(target=fan.close, args=(Deadline(PATIENCE),))
        closing.start()
        wait_for(fan, lambda: fan.is_closed)
        with pytest.raises(ConnectFailed, match="closed"):
            fan.send("late", "late", NEVER)
        b.works.set()
        closing.join(PATIENCE)
    assert b.took == ["0", "1", "2"]
    assert caplog.text == ""


def test_a_member_that_comes_after_it_was_given_up_is_not_there() -> None:
    """The event was under way when its connecting ended; no thread sends to it."""
    a, b = Broker("a"), Broker("b", reachable=False)
    with fanout(a, b, need=1) as fan:
        lane = fan._lanes[1]
        b.is_closed = True
        b.reachable.set()
        wait_for(fan, lambda: lane.is_over)
        lane._note(Connected("b"))
        fan.send("m", "m", Deadline(PATIENCE))
        assert not lane.is_up
        assert lane.open == 0


def test_copies_of_a_member_that_fails_to_open_are_answered() -> None:
    """It was connected for a moment, and messages were taken for it."""

    class Moment(Broker):
        def open(self, on_event: Callable[[Event], object]) -> None:
            on_event(Connected(self.name))
            self.opened.set()
            self.works.wait(PATIENCE)
            raise ConnectFailed("no thread")

    a, b = Broker("a"), Moment("b")
    b.works.clear()
    with fanout(a, b, need=2) as fan:
        thread, errors = send_in_thread(fan, "m")
        wait_for(fan, lambda: fan._lanes[1].open == 1)
        b.works.set()
        thread.join(PATIENCE)
    assert [str(error) for error in errors] == ["no thread"]


def test_too_few_members_that_are_not_given_up_are_an_error_at_once() -> None:
    a, b = Broker("a"), Broker("b")
    with fanout(a, b, need=2) as fan:
        b.tell(Interrupted("b"))
        b.tell(GaveUp("b", "reconnect=false"))
        with pytest.raises(ConnectFailed, match="minAckCount=2") as caught:
            fan.send("m", "m", NEVER)
        assert [str(attempt) for attempt in caught.value.attempts] == ["b: reconnect=false"]
        b.tell(Resumed("b"))
        fan.send("n", "n", Deadline(PATIENCE))
    assert a.took == b.took == ["n"]


def test_a_broker_that_cannot_be_closed_keeps_no_other_open() -> None:
    class Stuck(Broker):
        def close(self) -> None:
            super().close()
            raise OSError("broken")

    a, b = Stuck("a"), Broker("b")
    with fanout(a, b, need=2):
        pass
    assert b.is_closed


def test_close_ends_a_waiting_send() -> None:
    a, b = Broker("a"), Broker("b", reachable=False)
    with fanout(a, b, need=2) as fan:
        thread, errors = send_in_thread(fan, "m")
        fan.close(Deadline(PATIENCE))
        thread.join(PATIENCE)
        assert [str(error) for error in errors] == ["closed"]
        with pytest.raises(ConnectFailed, match="closed"):
            fan.send("n", "n", NEVER)
