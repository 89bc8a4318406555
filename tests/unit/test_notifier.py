from __future__ import annotations

import logging
import threading

import pytest

from understudy.core import events
from understudy.core.events import Connected, Event, GaveUp, Interrupted, MessageFailed
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
    assert len(caplog.records) == len(kinds) + 1
    assert caplog.messages[-1] == "message m1 failed: no queue"


def test_without_a_callback_there_is_no_thread() -> None:
    notifier = Notifier()
    notifier.tell(Connected("amqp://a"))
    assert notifier._thread is None
    notifier.close()


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


def test_a_callback_that_ends_its_thread_does_not_end_the_telling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    told: list[Event] = []

    def on_event(event: Event) -> None:
        told.append(event)
        raise KeyboardInterrupt

    notifier = Notifier(on_event)
    notifier.tell(Connected("amqp://a"))
    assert has_ended(notifier)
    notifier.tell(GaveUp(reason="gave up"))
    assert has_ended(notifier)
    assert [type(event) for event in told] == [Connected, GaveUp]
