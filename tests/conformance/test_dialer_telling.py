"""What the supervisor tells, and on which thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from understudy.core.events import Connected, Event, Interrupted, Resumed
from understudy.testing import FakeConnection, wait_until
from understudy.testing.supervisors import (
    LONG,
    A,
    B,
    Bench,
    C,
    acquire,
    kinds,
    start,
)


class PublishingHandler(logging.Handler):
    """A log handler that sends what is logged through us."""

    def __init__(self) -> None:
        super().__init__()
        self.send: Callable[[], object] = lambda: None
        self.sent: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.send()
        self.sent.append(record.getMessage())


def test_a_log_handler_may_use_the_supervisor(bench: Bench) -> None:
    """Its lock is held by who logs, and no thread of ours that he waits for may want it."""
    supervisor = bench.supervisor()
    handler = PublishingHandler()
    handler.send = lambda: supervisor.released(acquire(supervisor))
    log = logging.getLogger("understudy")
    log.addHandler(handler)
    try:
        bench.dialer.fail(A)
        theirs = start(log.warning, "the application's own")
        supervisor.lost(acquire(supervisor), "cut")
        theirs.result(LONG)
        assert wait_until(lambda: any("interrupted" in line for line in handler.sent), LONG)
    finally:
        log.removeHandler(handler)
    assert f"cannot connect to {A}: ConnectionRefusedError: refused by the script" in handler.sent
    for connection in bench.dialer.open:
        bench.dialer.discard(connection)


def test_each_cause_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = bench.supervisor()
    bench.dialer.fail(A, B, C)
    with caplog.at_level(logging.WARNING, "understudy"):
        call = start(acquire, supervisor)
        bench.dialer.wait_until(lambda: len(bench.dialer.dials) > 10)
        bench.dialer.fail(A, error=OSError("no route"))
        seen = len(bench.dialer.dials)
        bench.dialer.wait_until(lambda: len(bench.dialer.dials) > seen + 10)
        bench.dialer.succeed(C)
        one = call.result(LONG)
        bench.dialer.fail(C)
        before = bench.dialer.dials.count(str(C))
        supervisor.lost(one, "cut")
        call = start(acquire, supervisor)
        bench.dialer.wait_until(lambda: bench.dialer.dials.count(str(C)) > before + 1)
        bench.dialer.succeed(A)
        call.result(LONG)
    assert supervisor.notifier.settle(LONG)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("cannot")]
    refused = "ConnectionRefusedError: refused by the script"
    assert lines == [
        f"cannot connect to {A}: {refused}",
        f"cannot connect to {B}: {refused}",
        f"cannot connect to {C}: {refused}",
        f"cannot connect to {A}: OSError: no route",
        f"cannot connect to {C}: {refused}",
    ]


def test_callbacks_run_in_order_on_their_own_thread_and_may_fail(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    threads: set[str] = set()
    told: list[Event] = []

    def on_event(event: Event) -> None:
        threads.add(threading.current_thread().name)
        told.append(event)
        raise RuntimeError("a bug of the application")

    supervisor = bench.supervisor(on_event=on_event)
    for _ in range(3):
        supervisor.lost(acquire(supervisor), "cut")
    acquire(supervisor)
    assert wait_until(lambda: len(told) == 7, LONG)
    assert threads == {"understudy-events"}
    assert kinds(told) == [Connected] + [Interrupted, Resumed] * 3
    assert [event.endpoint for event in told] == [str(e) for e in (A, A, B, B, A, A, B)]
    assert all(event.time > 0 for event in told)
    assert "a bug of the application" in caplog.text


def test_callbacks_run_under_no_lock_and_may_use_the_supervisor(bench: Bench) -> None:
    done: Future[FakeConnection] = Future()

    def on_event(event: Event) -> None:
        if isinstance(event, Resumed):
            start(supervisor.hurry).result(LONG)  # no lock is held here, or this would hang
            done.set_result(acquire(supervisor))

    supervisor = bench.supervisor(on_event=on_event)
    supervisor.lost(acquire(supervisor), "cut")
    acquire(supervisor)
    assert done.result(LONG).endpoint == B
