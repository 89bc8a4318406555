"""F53: callers that a signal handler interrupts while they wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from kombu.exceptions import EncodeError

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_ACK
from understudy.testing.kombu_lab import cut_off, lasting, prepare, send

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


class Interruption(Exception):
    pass


@contextlib.contextmanager
def interrupting() -> Iterator[Callable[[], None]]:
    """SIGUSR1 raises in the main thread, as Celery's soft time limit does."""

    def handler(signum: int, frame: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident
    assert main is not None
    try:
        yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_f53_interrupted_while_waiting_for_a_confirm(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F53: the exception comes out at once, and the connection is usable after it."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy)
    prepare(connection, unique)
    send(connection, unique, "before")
    with interrupting() as interrupt:
        cut = proxy.cut_on(BASIC_ACK, direction="down", how="black_hole", then=interrupt)
        with lasting(0, 10), pytest.raises(Interruption):
            send(connection, unique, "interrupted")
        assert cut.wait()
    send(connection, unique, "after")
    assert [m.body for m in take_all(rabbit_a, unique)] == ["before", "interrupted", "after"]


def test_f53_interrupted_while_reconnecting(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F53: the same while nobody can be reached."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=-1)
    prepare(connection, unique)
    cut_off(proxy)
    supervisor = connection.transport.broker.supervisor

    with interrupting() as interrupt:

        def when_waiting() -> None:
            assert wait_until(lambda: supervisor._machine.passes_failed >= 2)
            interrupt()

        waiting = lab.background(when_waiting)
        with pytest.raises(Interruption):
            send(connection, unique, "interrupted")
        waiting.join()
    proxy.heal()
    send(connection, unique, "after")
    assert [m.body for m in take_all(rabbit_a, unique)] == ["after"]


def test_f53_interrupted_in_the_middle_of_frames(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F53: interrupted within a large write: half a frame is out, and disturbs nothing later."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy)
    prepare(connection, unique)
    send(connection, unique, "before")
    proxy.throttle(1_000_000)
    with interrupting() as interrupt:
        up = proxy.bytes_up
        half = lab.background(
            lambda: wait_until(lambda: proxy.bytes_up > up + 300_000) and interrupt()
        )
        with lasting(0, 10), pytest.raises(Interruption):
            send(connection, unique, "y" * 20_000_000)
        half.join()
    proxy.heal()
    for number in range(5):
        send(connection, unique, f"after {number}")
    found = [m.body for m in take_all(rabbit_a, unique)]
    assert found == ["before", *(f"after {n}" for n in range(5))]


@pytest.mark.usefixtures("swallowed")
def test_f53_many_interruptions_at_random_moments(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F53: a timer that goes off all the time; every send that returned is there."""
    connection = lab.connect(rabbit_a)
    prepare(connection, unique)
    done: list[str] = []

    def handler(signum: int, frame: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(150):
            with contextlib.suppress(Interruption, EncodeError):  # kombu wraps one in its encoding
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + (number % 17) * 0.0003)
                try:
                    send(connection, unique, str(number))
                    done.append(str(number))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    send(connection, unique, "last")
    assert {*done, "last"} <= {m.body for m in take_all(rabbit_a, unique)}
