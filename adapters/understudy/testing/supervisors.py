"""Supervisors with real threads over a dialer without a network, for tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from understudy.core.events import Event
from understudy.core.uri import parse, parse_members
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.supervisor import Supervisor
from understudy.testing.clock import FakeClock, wait_until
from understudy.testing.dialer import FakeConnection, FakeDialer

__all__ = [
    "LONG",
    "A",
    "B",
    "Bench",
    "C",
    "User",
    "acquire",
    "acquire_in_vain",
    "kinds",
    "leave_ready",
    "start",
]

T = TypeVar("T")

A, B, C = parse_members("amqp://a,amqp://b,amqp://c", schemes={"amqp"})
OWN_THREADS = {"understudy-supervisor", "understudy-spares", "understudy-events"}
LONG = 30.0  # s


class Bench:
    """Makes supervisors over one dialer, and closes them."""

    def __init__(self) -> None:
        self.dialer = FakeDialer()
        self.events: list[Event] = []
        self.supervisors: list[Supervisor[FakeConnection]] = []
        self._before = set(own_threads())  # of adapters that other tests have used

    def threads(self) -> list[threading.Thread]:
        """Those of our supervisors."""
        return [thread for thread in own_threads() if thread not in self._before]

    def supervisor(
        self, options: str = "", *, on_event: Callable[[Event], object] | None = None
    ) -> Supervisor[FakeConnection]:
        uri = parse(
            f"failover:(amqp://a,amqp://b,amqp://c)?randomize=false{options}",
            options={
                "connectTimeout": 60_000,
                "initialReconnectDelay": 0,
                "maxReconnectDelay": 1,
            },
        )
        it = Supervisor(uri, self.dialer, on_event=on_event or self.events.append)
        self.supervisors.append(it)
        return it

    def close(self) -> None:
        for supervisor in self.supervisors:
            supervisor.close()
        self.dialer.fail(A, B, C)
        assert wait_until(lambda: not self.threads(), LONG), self.threads()
        assert self.dialer.open == []


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in OWN_THREADS]


def acquire(supervisor: Supervisor[FakeConnection], **more: Any) -> FakeConnection:
    return supervisor.acquire(Deadline(LONG), **more)


def acquire_in_vain(bench: Bench, supervisor: Supervisor[FakeConnection]) -> None:
    """Ask for a connection, with a deadline that passes as soon as its dial is blocked."""
    clock = FakeClock()

    def on_wait() -> None:
        if bench.dialer.blocked:
            clock.advance(2 * LONG)

    supervisor.acquire(Deadline(LONG, clock.now), on_wait)


def start(function: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
    """Run it in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


class User:
    """What `attach` gets."""


def leave_ready(bench: Bench, supervisor: Supervisor[FakeConnection]) -> FakeConnection:
    """A connection to A that waits for a taker, as who asked for it has left. Needs a user."""
    bench.dialer.block(A)
    with contextlib.suppress(DeadlinePassed):
        acquire_in_vain(bench, supervisor)
    bench.dialer.succeed(A)
    assert wait_until(lambda: supervisor._connections.ready == 1, LONG)
    return bench.dialer.connections[-1]
