"""Exceptions of signal handlers in the middle of pika's calls, while other threads send."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pika
import pytest

import understudy
from understudy.pika import BlockingConnection
from understudy.testing.brokers import RabbitMQ

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

INTERRUPTIONS = 500
SHORTEST, LONGEST = 0.0002, 0.003  # s; about what a send takes


class Alarm(BaseException):
    pass


@pytest.fixture
def interrupted() -> Iterator[Callable[[Callable[[], object]], bool]]:
    """Make a call and interrupt it at some point; whether it was."""

    def ring(*_: Any) -> None:
        raise Alarm

    def call(send: Callable[[], object]) -> bool:
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(SHORTEST, LONGEST))
                send()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Alarm:
            return True
        return False

    before = signal.signal(signal.SIGALRM, ring)
    yield call
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("swallowed")
@pytest.mark.parametrize("tracked", ["false", "true"])
def test_an_interrupted_call_hinders_no_other(
    lab: Lab,
    rabbit_a: RabbitMQ,
    unique: str,
    take_all: Callable[[RabbitMQ, str], list[Found]],
    interrupted: Callable[[Callable[[], object]], bool],
    tracked: str,
) -> None:
    """Each gets the handler's own exception; no lock stays locked, no message is lost."""
    connection = BlockingConnection(lab.uri(rabbit_a, trackMessages=tracked, timeout=20000))
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    sent: list[str] = []
    is_over = threading.Event()

    def send(name: str) -> None:
        channel.basic_publish("", unique, b"x", pika.BasicProperties(message_id=name))
        sent.append(name)

    def send_all() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            send(f"other-{number}")
            is_over.wait(0.001)

    other = lab.background(send_all)
    number = interruptions = 0
    while interruptions < INTERRUPTIONS and other.is_running:
        number += 1
        interruptions += interrupted(lambda: send(f"mine-{number}"))  # noqa: B023
    is_over.set()
    other.join(120)
    assert connection.flush(60)
    send("the last")
    connection.close()
    found = Counter(message.id for message in take_all(rabbit_a, unique))
    lost = sorted(set(sent) - set(found))
    assert not lost, f"{len(lost)} of {len(sent)} are lost"


def test_a_handler_that_sends_while_its_own_thread_reconnects_gets_an_error(lab: Lab) -> None:
    """It would wait for the call that it has interrupted; with timeout=-1 for ever."""
    peer = lab.peer()
    connection = BlockingConnection(lab.uri(peer, timeout=-1))
    channel = connection.channel()
    peer.close()
    refusals: list[Exception] = []
    rings: list[int] = []

    def ring(*_: Any) -> None:
        rings.append(1)
        if len(rings) > 3:
            raise Alarm  # it hangs
        try:
            channel.basic_publish("", "q", b"inside")
        except pika.exceptions.ReentrancyError as exc:
            refusals.append(exc)
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3, 1.0)
        with pytest.raises(Alarm):
            channel.basic_publish("", "q", b"outside")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(refusals) == 1
    assert isinstance(refusals[0], understudy.ReentrancyError)
    assert "send after that call" in str(refusals[0])
    connection.close()


@pytest.mark.parametrize("kind", [TimeoutError, ValueError, TypeError, ConnectionResetError])
@pytest.mark.parametrize("waits_for", ["events", "a confirm", "a broker"])
def test_what_a_handler_raises_reaches_its_application(
    lab: Lab, waits_for: str, kind: type[Exception], events: Events
) -> None:
    """An alarm that raises TimeoutError ends the call, and is not taken for a broken wire."""
    peer = lab.peer(on_publish=lambda _, __, m: "ignore" if m.body == b"unconfirmed" else "ack")
    connection = BlockingConnection(lab.uri(peer, timeout=-1), on_event=events.add)
    channel = connection.channel()
    wire = connection._session.wire
    calls: dict[str, Callable[[], object]] = {
        "events": lambda: connection.process_data_events(time_limit=None),
        "a confirm": lambda: channel.basic_publish("", "q", b"unconfirmed"),
        "a broker": lambda: channel.basic_publish("", "q", b"unsent"),
    }

    def ring(*_: Any) -> None:
        raise kind("the application's own")

    before = signal.signal(signal.SIGALRM, ring)
    if waits_for == "a broker":
        peer.close()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(kind, match="the application's own"):
            calls[waits_for]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if waits_for != "a broker":
        channel.basic_publish("", "q", b"the next")
        assert connection._session.wire is wire
        assert events.names == ["Connected"]
    connection.close()


@pytest.mark.usefixtures("swallowed")
def test_what_a_handler_raises_at_any_point_is_never_lost(
    connect: Callable[..., Any], rabbit_a: RabbitMQ, unique: str
) -> None:
    """Within reading, decoding, writing and waiting: each alarm comes out of the call."""
    channel = connect(rabbit_a, initialReconnectDelay=0).channel()
    channel.queue_declare(unique, auto_delete=True)
    rung: list[int] = []
    caught = 0

    def ring(*_: Any) -> None:
        rung.append(1)
        raise (TimeoutError, ValueError, TypeError, OSError)[len(rung) % 4]("mine")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        while len(rung) < INTERRUPTIONS:
            known = len(rung)
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(SHORTEST, LONGEST))
                while len(rung) == known:
                    channel.basic_publish("", unique, b"x")
            except (TimeoutError, ValueError, TypeError, OSError) as exc:
                caught += str(exc) == "mine"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # Python itself swallows what is raised in the callback of a weak reference
    assert len(rung) - caught <= INTERRUPTIONS // 100
