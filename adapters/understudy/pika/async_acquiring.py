"""A wire of the supervisor's for a task of an event loop, which must not wait for it itself.

Rule: the supervisor blocks who asks it, so a short-lived thread does. A wire that arrives when the
task, or its loop, is over is given back, and its connection is not left to the broker's patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from understudy import errors
from understudy.failover import forking
from understudy.failover.deadline import NEVER
from understudy.failover.supervisor import Supervisor
from understudy.pika.wire import Wire

__all__ = ["acquire"]


async def acquire(supervisor: Supervisor[Wire], check: Callable[[], None]) -> Wire:
    """``check`` raises what ends the wait early; it is called from other threads.

    Raises that, and ConnectFailed when reconnecting was given up.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[Wire | BaseException] = loop.create_future()

    def deliver(outcome: Wire | BaseException) -> None:
        if not arrived.done():
            arrived.set_result(outcome)
        elif isinstance(outcome, Wire):
            _decline(outcome, supervisor)

    def run() -> None:
        outcome: Wire | BaseException
        try:
            outcome = supervisor.acquire(NEVER, check)
        except BaseException as exc:
            outcome = exc
        try:
            loop.call_soon_threadsafe(deliver, outcome)
        except RuntimeError:  # the loop is closed
            if isinstance(outcome, Wire):
                _decline(outcome, supervisor)

    if forking.start_thread("understudy-acquire", run) is None:
        raise errors.ConnectFailed("the interpreter is about to end")
    outcome = await arrived
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _decline(wire: Wire, supervisor: Supervisor[Wire]) -> None:
    supervisor.released(wire)
    wire.discard()
