"""A broker that takes no messages for now, because of its memory or disk: who hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pika import frame, spec

from understudy.core.events import Blocked, Unblocked
from understudy.failover.supervisor import Supervisor
from understudy.pika.wire import Wire

__all__ = ["AlarmCallbacks", "is_over_with_its_wire", "note"]

OVER = frame.Method(0, spec.Connection.Unblocked())


def note(method_frame: Any, wire: Wire, supervisor: Supervisor[Wire]) -> None:
    """The broker said connection.blocked or connection.unblocked."""
    reason = getattr(method_frame.method, "reason", None)
    if reason is not None:
        wire.blocked_since = time.monotonic()
        supervisor.tell(Blocked(str(wire.endpoint), str(reason)))
    else:
        wire.blocked_since = None
        supervisor.tell(Unblocked(str(wire.endpoint)))


def is_over_with_its_wire(wire: Wire, supervisor: Supervisor[Wire]) -> bool:
    """Whether a wire that was lost was blocked: nobody else would say that it is over."""
    if wire.blocked_since is None:
        return False
    wire.blocked_since = None
    supervisor.tell(Unblocked(str(wire.endpoint), "the connection was lost"))
    return True


class AlarmCallbacks:
    """The calls of a connection that take callbacks; ``_soon`` is how it calls them."""

    _soon: Callable[..., None]

    def __init__(self) -> None:
        self._on_blocked: list[Callable[..., Any]] = []
        self._on_unblocked: list[Callable[..., Any]] = []

    def add_on_connection_blocked_callback(self, callback: Callable[..., Any]) -> None:
        """As pika's: called with (connection, method frame)."""
        self._on_blocked.append(callback)

    def add_on_connection_unblocked_callback(self, callback: Callable[..., Any]) -> None:
        """As pika's; called as well when the broker that blocked is lost."""
        self._on_unblocked.append(callback)

    def _blocking_changed(self, method_frame: Any) -> None:
        is_block = isinstance(method_frame.method, spec.Connection.Blocked)
        for callback in self._on_blocked if is_block else self._on_unblocked:
            self._soon(callback, self, method_frame)
