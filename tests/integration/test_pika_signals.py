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

from understudy.pika import BlockingConnection
from understudy.testing.brokers import RabbitMQ

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

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


# Python swallows what is raised in a destructor, and closes the socket of an interrupted close
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
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
    other.join(60)
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
    refusals: list[str] = []
    rings: list[int] = []

    def ring(*_: Any) -> None:
        rings.append(1)
        if len(rings) > 3:
            raise Alarm  # it hangs
        try:
            channel.basic_publish("", "q", b"inside")
        except pika.exceptions.ReentrancyError as exc:
            refusals.append(str(exc))
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
    assert "send after that call" in refusals[0]
    connection.close()
