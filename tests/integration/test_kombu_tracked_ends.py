"""trackMessages=true where a process ends or forks, or threads and signal handlers send too."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import kombu
import pytest

import understudy.kombu
from understudy.errors import SendTimeout
from understudy.testing.brokers import RabbitMQ
from understudy.testing.kombu_lab import TRACK, cut_off, numbers, send, tracked

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


PROGRAM = """
import atexit, os, sys, kombu, understudy.kombu
later = []
atexit.register(lambda: send(*later))  # runs after the handlers registered later
connection = kombu.Connection(sys.argv[1])
queue = sys.argv[2]
kombu.Queue(queue)(connection.default_channel).declare()
producer = kombu.Producer(connection)
def send(*texts):
    for text in texts:
        producer.publish(str(text), routing_key=queue, serializer="raw")
"""


def run(uri: str, queue: str, body: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, uri, queue],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "end",
    [
        "send(*range(300))",
        "send(*range(300)); sys.exit(3)",
        "send(*range(300)); raise RuntimeError('as planned')",
        # atexit handlers run last in, first out, and no thread may be started in them any more
        "atexit.register(lambda: send(*range(300)))",
        "send(*range(150)); atexit.register(lambda: send(*range(150, 300)))",
        "send(*range(150)); later.extend(range(150, 300))",
    ],
)
def test_flushed_at_interpreter_exit(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str, end: str
) -> None:
    """Everything given before the end arrives, in order, also what atexit handlers send."""
    done = run(lab.uri(rabbit_a, **TRACK), unique, end)
    assert "understudy" not in done.stderr, done.stderr
    assert numbers(take_all(rabbit_a, unique)) == [*range(300)]


def test_fork_child_and_parent_each_send_their_own(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """After os.fork() each process's messages arrive exactly once."""
    done = run(
        lab.uri(rabbit_a, **TRACK),
        unique,
        """
        send(*range(200))
        child = os.fork()
        if child == 0:
            send(*range(1000, 1200))
            sys.exit(0)
        send(*range(200, 400))
        assert os.waitpid(child, 0)[1] == 0
        """,
    )
    assert done.returncode == 0, done.stderr
    found = numbers(take_all(rabbit_a, unique))
    assert sorted(found) == [*range(400), *range(1000, 1200)]
    assert [n for n in found if n < 1000] == [*range(400)]
    assert [n for n in found if n >= 1000] == [*range(1000, 1200)]


def test_fork_in_the_middle_of_an_outage(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """The parent's waiting messages stay the parent's."""
    proxy = lab.proxy(rabbit_a)
    connection = tracked(lab, proxy, queue=unique)
    producer = kombu.Producer(connection.default_channel)
    cut_off(proxy)
    for number in range(10):
        producer.publish(str(number), routing_key=unique, serializer="raw")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if understudy.kombu.flush(1) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    proxy.heal()
    assert understudy.kombu.flush(30)
    assert numbers(take_all(rabbit_a, unique)) == [*range(10)]


def test_threads_put_while_the_link_is_cut(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F20: four threads, a link that is reset; each thread's order is kept."""
    proxy = lab.proxy(rabbit_a)
    connection = tracked(lab, proxy, queue=unique, initialReconnectDelay=1)
    producers = [kombu.Producer(connection.channel()) for _ in range(4)]

    def stream(number: int) -> None:
        for step in range(200):
            producers[number].publish(
                str(number * 1000 + step), routing_key=unique, serializer="raw"
            )
            if number == 0 and step % 50 == 25:
                time.sleep(0.01)  # lets something be on the way
                proxy.reset()

    for worker in [lab.background(lambda n=n: stream(n)) for n in range(4)]:  # type: ignore[misc]
        worker.join()
    assert understudy.kombu.flush(30)
    found = numbers(take_all(rabbit_a, unique))
    for number in range(4):
        mine = [*dict.fromkeys(n % 1000 for n in found if n // 1000 == number)]
        assert mine == [*range(200)]


def test_a_signal_handler_may_flush_and_publish(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """It interrupts the same calls, also where they hold our lock."""
    proxy = lab.proxy(rabbit_a)
    connection = tracked(lab, proxy, queue=unique, initialReconnectDelay=1)
    send(connection, unique, 0)
    assert understudy.kombu.flush(60)
    proxy.black_hole()
    send(connection, unique, 1)
    sent = [0, 1]
    is_over = False

    def on_alarm(*_: object) -> None:
        sent.append(len(sent))
        send(connection, unique, sent[-1])
        understudy.kombu.flush(0.001)
        if not is_over:  # only now: on a busy machine a periodic timer would nest without end
            signal.setitimer(signal.ITIMER_REAL, 0.007)

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    try:
        assert not understudy.kombu.flush(1)
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    proxy.heal()
    assert understudy.kombu.flush(60)
    assert set(numbers(take_all(rabbit_a, unique))) == set(sent)


class Interrupted(Exception):
    """What a signal handler raises."""


@pytest.mark.usefixtures("swallowed")
@pytest.mark.parametrize("call", ["flush", "publish"])
def test_f53_what_a_signal_handler_raises_reaches_who_waits(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str, call: str
) -> None:
    """F53: at whatever moment of the wait it comes, and everything goes on afterwards."""
    proxy = lab.proxy(rabbit_a)
    size = {"maxCacheSize": 100 if call == "publish" else 10000}
    connection = tracked(lab, proxy, queue=unique, initialReconnectDelay=1, **size)
    send(connection, unique, 0)
    assert understudy.kombu.flush(60)
    proxy.black_hole()
    send(connection, unique, "1" * 100)
    channel = connection.default_channel

    rung: list[int] = []
    caught = 0

    def wait() -> None:
        known = len(rung)
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.002))
        while len(rung) == known:  # short, so that it finds beginnings and ends of waits too
            if call == "flush":
                understudy.kombu.flush(0.00001)
            else:
                with contextlib.suppress(SendTimeout):
                    message = channel.prepare_message(b"2" * 100)
                    channel.basic_publish(message, "", routing_key=unique, timeout=0.00001)

    def on_alarm(*_: object) -> None:
        rung.append(1)
        raise Interrupted

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        for _ in range(1000):
            try:
                wait()
            except Interrupted:
                caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught >= 990  # Python itself swallows what is raised in a weak reference's callback
    proxy.heal()
    assert understudy.kombu.flush(60)
    assert {message.body[0] for message in take_all(rabbit_a, unique)} == {"0", "1"}
