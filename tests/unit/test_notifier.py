from __future__ import annotations

import logging
import threading

import pytest

from understudy.core import events
from understudy.core.events import Connected, Event, GaveUp, Interrupted, MessageFailed
from understudy.failover import forking
from understudy.failover import notifier as notifier_module
from understudy.failover.notifier import LOG_LINES, Notifier
from understudy.testing import wait_until


class SlowCallback:
    """Takes the first event and then waits."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.told: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.entered.set()
        self.go_on.wait(30)
        self.told.append(event)


def has_ended(notifier: Notifier) -> bool:
    thread = notifier._thread
    return wait_until(lambda: thread is None or not thread.is_alive(), 30)


def test_each_event_has_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    kinds = {getattr(events, name) for name in events.__all__} - {Event}
    assert set(LOG_LINES) == kinds
    notifier = Notifier()
    with caplog.at_level(logging.DEBUG, "understudy"):
        for kind in kinds:
            notifier.tell(kind("amqp://a", "a {reason} with braces"))
        notifier.tell(MessageFailed("amqp://a", "no queue", message_id="m1"))
        assert notifier.settle(30)
    assert len(caplog.records) == len(kinds) + 1
    assert caplog.messages[-1] == "message m1 failed: no queue"


def test_the_thread_ends_when_nothing_is_told_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifier_module, "IDLE_TIME", 0.01)
    told: list[Event] = []
    notifier = Notifier(told.append)
    for number in range(5):
        notifier.tell(Connected(str(number)))
        assert has_ended(notifier)
    assert [event.endpoint for event in told] == list("01234")


def test_settling_while_the_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "IDLE_TIME", 0.01)
    notifier = Notifier()
    notifier.tell(Connected("a"))

    class Late(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            assert has_ended(notifier)

    monkeypatch.setattr(threading, "Event", Late)
    assert notifier.settle(1)


def test_where_no_thread_can_be_started_the_caller_tells(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forking, "start_thread", lambda name, target: None)
    told: list[Event] = []
    notifier = Notifier(told.append)
    notifier.tell(GaveUp(reason="gave up"))
    assert [type(event) for event in told] == [GaveUp]
    assert caplog.messages == ["gave up"]


def test_no_log_handler_runs_in_the_callers_thread(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier()
    notifier.tell(GaveUp(reason="gave up"))
    notifier.log(logging.WARNING, "100% sure")
    assert notifier.settle(30)
    assert caplog.messages == ["gave up", "100% sure"]
    assert {record.threadName for record in caplog.records} == {"understudy-events"}
    notifier.close()
    assert has_ended(notifier)


def test_what_does_not_fit_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "QUEUE_SIZE", 3)
    callback = SlowCallback()
    notifier = Notifier(callback)
    notifier.tell(Connected("first"))
    assert callback.entered.wait(30)
    for number in range(5):
        notifier.tell(Interrupted(str(number)))
    assert notifier.dropped == 2
    notifier.close()  # finds the queue full, and is no event
    assert notifier.dropped == 2
    callback.go_on.set()
    assert has_ended(notifier)
    assert [event.endpoint for event in callback.told] == ["first", "0", "1", "2"]


def test_close_lets_the_thread_tell_what_is_queued() -> None:
    callback = SlowCallback()
    notifier = Notifier(callback)
    for number in range(4):
        notifier.tell(Interrupted(str(number)))
    notifier.close()
    callback.go_on.set()
    assert has_ended(notifier)
    assert [event.endpoint for event in callback.told] == ["0", "1", "2", "3"]


def test_what_a_callback_raises_does_not_end_the_telling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[Event] = []

    def on_event(event: Event) -> None:
        told.append(event)
        raise KeyboardInterrupt

    notifier = Notifier(on_event)
    notifier.tell(Connected("amqp://a"))
    notifier.tell(GaveUp(reason="gave up"))
    notifier.close()
    assert has_ended(notifier)
    assert [type(event) for event in told] == [Connected, GaveUp]
    assert caplog.text.count("on_event failed for") == 2
