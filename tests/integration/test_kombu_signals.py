"""Exceptions of signal handlers in the middle of kombu's calls: they are the application's own."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import amqp
import kombu
import pytest
from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration

PATIENCE = 30.0  # s, far more than any machine needs
DELIVER = (60, 60)

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


class SoftTimeLimit(Exception):
    """As Celery's: of a class that no library raises by itself."""


@contextlib.contextmanager
def ringing(kind: type[BaseException]) -> Iterator[Callable[[], None]]:
    """What is given raises that, out of a signal handler."""

    def ring(*_: Any) -> None:
        raise kind("the application's own")

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        yield lambda: signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def consume(connection: kombu.Connection, take: Callable[[Any], object]) -> None:
    queue = kombu.Queue("q", channel=connection.channel())
    consumer = kombu.Consumer(connection.default_channel, [queue], on_message=take, no_ack=True)
    consumer.consume()


@pytest.mark.parametrize("kind", [SoftTimeLimit, KeyboardInterrupt, TimeoutError])
def test_a_connection_whose_frame_is_half_done_is_left(
    lab: Lab, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the delivery in it would not come again before the connection ends."""
    peer = lab.peer()
    connection = lab.connect(peer)
    received: list[Any] = []
    consume(connection, received.append)
    dispatch = amqp.channel.Channel.dispatch_method

    def interrupted(self: Any, method: tuple[int, int], payload: Any, content: Any) -> None:
        if method == DELIVER:
            ring()
        dispatch(self, method, payload, content)

    monkeypatch.setattr(amqp.channel.Channel, "dispatch_method", interrupted)
    peer.history[-1].deliver(b"half taken in")
    with ringing(kind) as ring, pytest.raises(kind, match="the application's own"):
        connection.drain_events(timeout=PATIENCE)
    with pytest.raises(amqp.exceptions.RecoverableConnectionError, match="interrupted"):
        connection.drain_events(timeout=PATIENCE)
    assert not received


@pytest.mark.parametrize("kind", [SoftTimeLimit, KeyboardInterrupt])
def test_what_ends_a_callback_ends_no_connection(lab: Lab, kind: type[BaseException]) -> None:
    """Its frame was taken in whole."""
    peer = lab.peer()
    connection = lab.connect(peer)
    received: list[Any] = []

    def take(message: Any) -> None:
        received.append(message)
        if len(received) == 1:
            ring()

    consume(connection, take)
    with ringing(kind) as ring:
        peer.history[-1].deliver(b"first")
        with pytest.raises(kind):
            connection.drain_events(timeout=PATIENCE)
        peer.history[-1].deliver(b"second")
        connection.drain_events(timeout=PATIENCE)
    assert len(received) == 2
    assert peer.accepted == 1


def test_a_handler_in_the_middle_of_a_search_for_a_broker_is_told_so(lab: Lab) -> None:
    """No thread could connect while it waits: it would wait for ever."""
    connection = lab.connect(lab.peer())
    publish(connection, "q", "first")
    other = connection.clone()
    lab.connections.append(other)
    supervisor: Any = connection.transport.broker.supervisor
    with supervisor._control.lock, pytest.raises(OperationalError, match="leave a note"):
        publish(other, "q", "of the handler")
    publish(other, "q", "after it")
