"""Faults under a pika connection: cuts everywhere, silence, lies; no hang, no leak, no crash."""

from __future__ import annotations

import gc
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import pika
import pytest

from understudy.failover.deadline import NEVER
from understudy.pika import BlockingConnection
from understudy.testing import wait_until
from understudy.testing.amqp_handshake import HandshakeFault
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_PUBLISH, encode_frame

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Connect = Callable[..., Any]
TRANSIENT = pika.BasicProperties(delivery_mode=1)


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


@pytest.mark.parametrize("fault", get_args(HandshakeFault))
def test_f37_f38_faults_of_the_handshake(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, fault: HandshakeFault
) -> None:
    """F37, F38: silence, garbage, a drip: bounded by connectTimeout, and the next one is used."""
    bad = lab.peer(handshake=fault, drip=0.05)
    connection = connect(bad, rabbit_a, connectTimeout=1500)
    assert str(rabbit_a.port) in repr(connection).partition(" of ")[0]
    assert bad.accepted == 1


def test_cut_after_every_so_many_bytes_of_a_first_use(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """The connection is cut after N bytes of handshake, declaration and send, for many N."""
    sent = 0
    for direction in ("up", "down"):
        for count in range(1, 1100, 71):
            proxy = lab.proxy(rabbit_a)
            cut = proxy.cut_after(count, direction)
            options = {"initialReconnectDelay": 0, "maxReconnectDelay": 1}
            connection = connect(proxy, **options)
            channel = connection.channel()
            channel.queue_declare(unique, durable=True)
            channel.basic_publish("", unique, str(sent))
            sent += 1
            connection.close()
            cut.cancel()
            proxy.close()
    assert {*map(int, bodies(take_all(rabbit_a, unique)))} == set(range(sent))


def test_slow_drip_and_black_hole(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str
) -> None:
    """A network that swallows everything is left after two heartbeats, while idle too."""
    proxy = lab.proxy(rabbit_a)
    connection = connect(proxy, rabbit_b, heartbeat=1000)
    channel = connection.channel()
    proxy.throttle(300)
    channel.basic_publish("", unique, "x" * 200)
    proxy.heal()
    proxy.black_hole()
    lab.background(partial(channel.basic_publish, "", unique, "y")).join()
    assert str(rabbit_b.port) in repr(connection).partition(" of ")[0]
    proxy.heal(drop=True)


def test_a_wakeup_ends_a_poll_that_was_begun_without_one(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ
) -> None:
    """Else what the monitor reads would leave a waiting caller asleep."""
    session = connect(rabbit_a)._session
    session.wire.poll(0.0)
    session.wakeup.set()
    assert lab.background(lambda: session.wire.poll(60.0, session.wakeup)).is_over_within(20)


def test_idle_death_is_noticed_without_a_call(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, events: Events
) -> None:
    """While the application does nothing, a lost connection is noticed and replaced."""
    proxy = lab.proxy(rabbit_a)
    connect(proxy, rabbit_b, heartbeat=1000, on_event=events.add)
    proxy.refuse()
    proxy.reset()
    assert wait_until(lambda: events.count("Resumed") == 1)


def _hostile_frames(rng: random.Random) -> Iterator[bytes]:
    """What no honest broker sends."""
    yield b"AMQP\0\0\x09\1"
    yield b"HTTP/1.1 400 Bad Request\r\n\r\n"
    yield struct.pack(">BHI", 1, 0, 2**32 - 1)  # a giant size
    yield struct.pack(">BHI", 1, 1, 2**31)
    yield encode_frame(1, 0, b"\0\0\0\0")  # an unknown method
    yield encode_frame(1, 1, b"\0\x3c\0\x3c")  # half a basic.deliver
    yield encode_frame(1, 77, b"\0\x14\0\x0b\0\0\0\0")  # on a channel that is not open
    yield encode_frame(2, 1, b"\0" * 14)  # a header without its method
    yield encode_frame(3, 1, b"body")
    yield encode_frame(8, 0, b"")[:-1] + b"\x00"  # a frame without its end
    yield encode_frame(9, 0, b"")
    deliver = b"\0\x3c\0\x3c" + b"\4ctag" + b"\0" * 7 + b"\1" + b"\0" + b"\0\0"
    huge = b"\0\x3c\0\0" + struct.pack(">Q", 2**62) + b"\0\0"
    yield encode_frame(1, 1, deliver) + encode_frame(2, 1, huge)
    late = b"\0\x3c\0\0" + struct.pack(">Q", 0) + b"\0\x40" + struct.pack(">Q", 2**63)
    yield encode_frame(1, 1, deliver) + encode_frame(2, 1, late)
    for _ in range(40):
        payload = rng.randbytes(rng.randrange(64))
        yield encode_frame(rng.choice((1, 2, 3)), rng.choice((0, 1)), payload)
    for _ in range(10):
        yield rng.randbytes(200)


def test_hostile_broker_leads_to_the_next(lab: Lab, connect: Connect, unique: str) -> None:
    """Random frames, half frames, wrong order, giant sizes: the next endpoint, nothing else."""
    good = lab.peer()
    for number, poison in enumerate(_hostile_frames(random.Random(7))):
        bad = lab.peer()
        connection = connect(bad, good, timeout=20000)
        channel = connection.channel()
        channel.basic_publish("", "q", "before")
        bad.send_raw(poison)
        sending = lab.background(partial(_publish_until_elsewhere, connection, channel, good))
        if not sending.is_over_within(3):
            bad.close()  # what it sent was legal, or not complete
            sending.join()
        connection.close()
        bad.close()
        assert len(good.messages) > number


def _publish_until_elsewhere(connection: Any, channel: Any, good: Any) -> None:
    known = len(good.messages)
    while len(good.messages) == known:
        channel.basic_publish("", "q", "on")
        connection.process_data_events(time_limit=0.01)


def lose(connection: Any) -> None:
    """Break the wire, whatever thread is bringing it back from an earlier break."""
    session = connection._session
    with session.lock:
        session.usable(NEVER).sever("the test says so")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("tracks", ["false", "true"])
def test_f41_two_hundred_failovers_without_growth(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str, tracks: str
) -> None:
    """F41: no thread, no descriptor and next to no object is left behind; nothing is lost."""
    bound = _descriptors() + 60
    proxy = lab.proxy(rabbit_a)
    options = {"initialReconnectDelay": 0, "trackMessages": tracks, "backup": "true"}
    connection = connect(proxy, rabbit_a, **options)
    channel = connection.channel()
    channel.queue_declare(unique, durable=True)
    channel.basic_qos(prefetch_count=10)
    got: set[int] = set()

    def handle(chan: Any, method: Any, properties: Any, body: bytes) -> None:
        got.add(int(body))
        chan.basic_ack(method.delivery_tag)

    channel.basic_consume(unique, handle)
    sizes = []
    for number in range(200):
        channel.basic_publish("", unique, str(number))
        connection.process_data_events(time_limit=0)
        lose(connection)
        channel.basic_publish("", unique, str(number))
        if number in (50, 199):
            gc.collect()
            assert wait_until(lambda: _descriptors() < bound)
            sizes.append((threading.active_count(), _descriptors(), len(gc.get_objects())))
    until = time.monotonic() + 60
    while got != set(range(200)) and time.monotonic() < until:
        connection.process_data_events(time_limit=0.1)
    assert got == set(range(200))
    (threads, descriptors, objects), (_, _, later_objects) = sizes
    assert wait_until(lambda: threading.active_count() <= threads + 1)
    assert wait_until(lambda: _descriptors() <= descriptors + 4)  # a spare or a dial under way
    assert later_objects < objects + 3000
    connection.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # not closed
def test_f41_nothing_is_left_after_close(lab: Lab, rabbit_a: RabbitMQ) -> None:
    """F41: threads and descriptors end with close, spares included; a dropped one is collected."""
    BlockingConnection(lab.uri(rabbit_a)).close()
    gc.collect()
    threads, descriptors = threading.active_count(), _descriptors()
    for index in range(20):
        options = {"backup": "true", "trackMessages": "true"}
        connection = BlockingConnection(lab.uri(lab.proxy(rabbit_a), rabbit_a, **options))
        connection.channel().basic_publish("", "nowhere", "x")
        if index % 2:
            connection.close()
        else:
            assert connection.flush(60)
        del connection
    lab._stack.close()

    def is_clean() -> bool:
        gc.collect()  # a thread may have held it for a moment
        return threading.active_count() <= threads + 1 and _descriptors() <= descriptors + 2

    assert wait_until(is_clean)


def _publish_for_ever(channel: Any, queue: str) -> None:
    while True:
        channel.basic_publish("", queue, "x")


def test_signal_in_a_blocked_send_leaves_the_connection_whole(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F53: a handler that raises ends the call promptly; the next send works."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy).channel()
    channel.queue_declare(unique, durable=True)

    class Interrupt(BaseException):
        pass

    def handler(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for delay in (0.001, 0.003, 0.01, 0.3):
            if delay == 0.3:
                proxy.black_hole()
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(Interrupt):
                _publish_for_ever(channel, unique)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    proxy.heal(drop=True)
    channel.basic_publish("", unique, "last")
    assert bodies(take_all(rabbit_a, unique))[-1] == "last"


def test_signal_handler_may_publish_on_a_connection_in_use(
    connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """Wherever the handler interrupts a send, both messages arrive and nothing hangs."""
    channel = connect(rabbit_a, initialReconnectDelay=0, timeout=-1).channel()
    channel.queue_declare(unique, durable=True)
    handled: list[int] = []

    def handler(*_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and not inside:
            inside.append(1)
            channel.basic_publish("", unique, f"handler {len(handled)}")
            handled.append(1)
            inside.clear()

    inside: list[int] = []
    before = signal.signal(signal.SIGALRM, handler)
    try:
        sent = 0
        until = time.monotonic() + 60
        while len(handled) < 60 and time.monotonic() < until:
            signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00005 * (sent % 60))  # once
            channel.basic_publish("", unique, f"main {sent}", TRANSIENT)
            sent += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) >= 60
    expected = {f"main {n}" for n in range(sent)} | {f"handler {n}" for n in range(len(handled))}
    assert set(bodies(take_all(rabbit_a, unique))) == expected


def test_cut_in_the_middle_of_a_large_message(
    lab: Lab, connect: Connect, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """Half a message is never taken for a whole one."""
    proxy = lab.proxy(rabbit_a)
    channel = connect(proxy).channel()
    channel.queue_declare(unique, durable=True)
    proxy.cut_on(BASIC_PUBLISH, direction="up", before=False)
    proxy.cut_after(400_000, "up")
    channel.basic_publish("", unique, b"y" * 1_000_000)
    assert {len(body) for body in bodies(take_all(rabbit_a, unique))} == {1_000_000}
