"""Exceptions of signal handlers in the middle of kombu's calls: they are the application's own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import kombu
import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration

KINDS = (TimeoutError, ValueError, TypeError, ConnectionResetError)


def publish(connection: kombu.Connection, queue: str, text: str) -> None:
    kombu.Producer(connection).publish(text, routing_key=queue, serializer="raw")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waits_for", ["events", "a confirm"])
def test_what_a_handler_raises_reaches_its_application(
    lab: Lab, waits_for: str, kind: type[Exception], events: Events
) -> None:
    """An alarm that raises TimeoutError ends the call, and its broker is not blamed."""
    peer = lab.peer(on_publish=lambda _, __, m: "ignore" if m.body == b"unconfirmed" else "ack")
    connection = lab.connect(peer, timeout=-1, on_event=events.add)
    publish(connection, "q", "first")
    calls: dict[str, Callable[[], Any]] = {
        "events": lambda: connection.drain_events(timeout=None),
        "a confirm": lambda: publish(connection, "q", "unconfirmed"),
    }

    def ring(*_: Any) -> None:
        raise kind("the application's own")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(kind, match="the application's own"):
            calls[waits_for]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if waits_for == "a confirm":
        publish(connection, "q", "the next")
    assert "Interrupted" not in events.names
