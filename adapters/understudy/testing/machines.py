"""Failover machines in a known state, for tests."""

from __future__ import annotations

import random
from typing import Any

from understudy.core.endpoint import Endpoint
from understudy.core.events import Event
from understudy.core.happenings import (
    Action,
    Closed,
    Dial,
    Dialed,
    DialFailed,
    Tell,
    TimeUp,
    Wait,
    Wanted,
)
from understudy.core.machine import Machine, State
from understudy.core.options import Options

__all__ = [
    "A",
    "B",
    "C",
    "D",
    "at",
    "connected",
    "fail_pass",
    "in_state",
    "machine",
    "told",
    "waits",
]


def at(host: str) -> Endpoint:
    uri = f"amqp://{host}:5672"
    return Endpoint(uri, uri, "amqp", host, 5672)


A, B, C, D = (at(host) for host in "abcd")


def machine(*endpoints: Endpoint, **options: Any) -> Machine:
    """Listed order and exact delays unless asked for otherwise."""
    exact = {"randomize": False, "reconnect_delay_jitter": 0, **options}
    return Machine(endpoints or (A, B, C), Options(**exact), random.Random(0))


def connected(*endpoints: Endpoint, **options: Any) -> Machine:
    """On the first endpoint."""
    it = machine(*endpoints, **options)
    (dial,) = it.receive(Wanted())
    assert isinstance(dial, Dial)
    it.receive(Dialed(dial.endpoint))
    return it


def fail_pass(it: Machine, actions: list[Action]) -> tuple[list[Endpoint], list[Action]]:
    """Refuse every dial of the pass that begins in ``actions``: what was tried, what came then."""
    tried = []
    while actions and isinstance(actions[-1], Dial):
        endpoint = actions[-1].endpoint
        tried.append(endpoint)
        actions = it.receive(DialFailed(endpoint, "refused"))
    return tried, actions


def waits(it: Machine, actions: list[Action], count: int) -> list[float]:
    """The delays of ``count`` failing passes; ``actions`` begin the first pass or its delay."""
    delays = []
    for _ in range(count):
        _, actions = fail_pass(it, actions)
        assert isinstance(actions[-1], Wait)
        delays.append(actions[-1].ms)
        actions = it.receive(TimeUp())
    return delays


def told(actions: list[Action]) -> list[Event]:
    return [action.event for action in actions if isinstance(action, Tell)]


def in_state(state: State) -> Machine:
    """The machine of A and B in this state; with GAVE_UP one pass is all it may do."""
    it = machine(A, B, max_reconnect_attempts=1) if state is State.GAVE_UP else machine(A, B)
    if state is State.IDLE:
        return it
    actions = it.receive(Wanted())
    match state:
        case State.CONNECTED:
            it.receive(Dialed(A))
        case State.WAITING | State.GAVE_UP:
            fail_pass(it, actions)
        case State.CLOSED:
            it.receive(Closed())
    assert it.state is state
    return it
