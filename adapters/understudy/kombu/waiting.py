"""Bounds for waits on a py-amqp connection, where py-amqp's own timeouts count for each frame."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from amqp.exceptions import RecoverableConnectionError

from understudy.failover.deadline import Deadline
from understudy.failover.interruptions import is_of_signal_handler

if TYPE_CHECKING:
    from understudy.kombu.amqp import BoundedConnection

__all__ = ["Bound", "bounded_wait", "draining_until"]


def bounded_wait(
    wait: Callable[..., Any],
    connection: BoundedConnection,
    method: Any,
    callback: Any,
    timeout: float | None,
    returns_tuple: bool,
) -> Any:
    """py-amqp's wait; the owner's patience bounds the whole of it, not each frame."""
    patience = connection.patience() if timeout is None else timeout
    if patience is None:
        return wait(method, callback, None, returns_tuple)
    try:
        with draining_until(connection, Deadline(patience)):
            return wait(method, callback, patience, returns_tuple)
    except TimeoutError as exc:
        if is_of_signal_handler(exc):
            raise
        reason = f"no answer within {patience:g} s"
        connection.sever(reason)
        raise RecoverableConnectionError(reason) from None


def replies_until(connection: Any, deadline: Deadline) -> contextlib.AbstractContextManager[None]:
    """The same where ``connection`` may be another host library's, which knows no such bound."""
    bounded = hasattr(connection, "bound") and deadline.seconds is not None
    return draining_until(connection, deadline) if bounded else contextlib.nullcontext()


class Bound(threading.local):
    """Until when the present thread waits for something on a connection."""

    deadline: Deadline | None = None


@contextlib.contextmanager
def draining_until(connection: BoundedConnection, deadline: Deadline) -> Iterator[None]:
    """Make this thread's `drain_events` end at a deadline, however many frames arrive."""
    bound = connection.bound
    outer = bound.deadline
    if outer is None or deadline.remaining() < outer.remaining():
        bound.deadline = deadline
    try:
        yield
    finally:
        bound.deadline = outer
