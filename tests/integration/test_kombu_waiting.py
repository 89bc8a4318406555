"""How long things wait: timeouts, giving up, closing while waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import kombu
import pytest
from kombu.exceptions import OperationalError

import understudy
from understudy.errors import ConnectFailed, ConnectionLost, SendTimeout
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.ports import Port
from understudy.testing.kombu_lab import cut_off, lasting, prepare, send

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


@pytest.fixture
def nobody() -> Iterator[Callable[[], str]]:
    """Addresses where nobody listens, and nobody will."""
    ports: list[Port] = []

    def address() -> str:
        ports.append(Port())
        return f"amqp://guest:guest@127.0.0.1:{ports[-1].number}//"

    yield address
    for port in ports:
        port.release()


# --- F15, F16: timeout ---------------------------------------------------------------------------


@pytest.mark.parametrize("retry", [False, True])
def test_f15_send_timeout_with_every_broker_down(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, take_all: Take, retry: bool
) -> None:
    """F15: timeout=3000 ends the send after 3 s; the connection works once a broker is back."""
    proxies = lab.proxy(rabbit_a), lab.proxy(rabbit_b)
    connection = lab.connect(*proxies, timeout=3000)
    prepare(connection, unique)
    send(connection, unique, "before")  # or the time since its connection came up would count
    cut_off(*proxies)
    with lasting(2.9, 12), pytest.raises(SendTimeout, match="timeout=3000 ms") as caught:
        send(connection, unique, "late", retry=retry, message_id="m-1")
    error = caught.value
    assert isinstance(error, OperationalError)
    assert not isinstance(error, OSError)
    assert not isinstance(error, connection.recoverable_connection_errors)
    assert (error.message_id, error.written) == ("m-1", True) or not error.written
    assert len(error.attempts) == 2
    proxies[1].heal()
    send(connection, unique, "after", retry=retry)
    assert [m.body for m in take_all(rabbit_b, unique)] == ["after"]


def test_f15_never_connected(lab: Lab, nobody: Callable[[], str], unique: str) -> None:
    """F15, F16: the very first connection, needed by a send, counts against its timeout."""
    connection = lab.connect(nobody(), nobody(), timeout=1000)
    with lasting(0.9, 10), pytest.raises(SendTimeout) as caught:
        send(connection, unique)
    assert isinstance(caught.value, OperationalError)
    assert not caught.value.written
    assert len(caught.value.attempts) == 2


def test_f15_silent_broker(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """F15, F36: a broker that took the message and never answers: in doubt, and said so."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=2000)
    prepare(connection, unique)
    send(connection, unique)
    proxy.black_hole()
    with lasting(1.9, 10), pytest.raises(SendTimeout) as caught:
        send(connection, unique)
    assert caught.value.written
    assert caught.value.message_id


def test_f15_silent_broker_and_a_large_message(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """F15: the deadline holds in the middle of a write too."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=2000)
    prepare(connection, unique)
    send(connection, unique)
    proxy.black_hole()
    with lasting(1.9, 15), pytest.raises(SendTimeout) as caught:
        send(connection, unique, "x" * 30_000_000)
    assert caught.value.written


def test_f15_late_confirm_disturbs_nothing(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F15: the confirm of a timed-out send comes when the next send waits for its own."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=2000)
    prepare(connection, unique)
    send(connection, unique, "one")
    proxy.half_open("up")
    with pytest.raises(SendTimeout):
        send(connection, unique, "doubted")
    with pytest.raises(SendTimeout):
        send(connection, unique, "doubted too")
    proxy.heal()
    for number in range(5):
        send(connection, unique, f"after {number}")
    found = [m.body for m in take_all(rabbit_a, unique)]
    assert found == ["one", "doubted", "doubted too", *(f"after {n}" for n in range(5))]


def test_f15_timed_out_message_is_never_sent_later(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take
) -> None:
    """F15: once a send has ended in SendTimeout its message stays away."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=2000, maxReconnectDelay=100)
    prepare(connection, unique)
    cut_off(proxy)
    for number in range(3):
        with pytest.raises(SendTimeout):
            send(connection, unique, f"given up {number}")
    proxy.heal()
    send(connection, unique, "arrives")
    assert [m.body for m in take_all(rabbit_a, unique)] == ["arrives"]


def test_f15_a_declaration_has_the_same_deadline(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """F15: timeout bounds declare too."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=1500)
    channel = connection.channel()
    cut_off(proxy)
    with lasting(1.4, 10), pytest.raises(SendTimeout):
        kombu.Queue(unique)(channel).declare()


# --- F07, F08, F17: giving up --------------------------------------------------------------------


def test_f07_startup_attempts(lab: Lab, nobody: Callable[[], str], events: Events) -> None:
    """F07: startupMaxReconnectAttempts=3: exactly three passes over both, each cause told."""
    deaf = lab.peer(handshake="close_after_start")
    there = nobody()
    connection = lab.connect(
        there,
        deaf,
        startupMaxReconnectAttempts=3,
        maxReconnectAttempts=7,
        on_event=events.add,
    )
    with pytest.raises(ConnectFailed) as caught:
        connection.connect()
    assert isinstance(caught.value, OperationalError)
    assert deaf.accepted == 3
    assert [a.endpoint.split("@")[1] for a in caught.value.attempts] == [
        there.split("@")[1],
        f"127.0.0.1:{deaf.port}//",
    ]
    assert "ConnectionRefusedError" in caught.value.attempts[0].cause
    assert all(str(attempt) in str(caught.value) for attempt in caught.value.attempts)
    assert events.names == ["GaveUp"]
    with pytest.raises(ConnectFailed):
        connection.connect()
    assert deaf.accepted == 6


@pytest.mark.parametrize("retry", [False, True])
def test_f07_max_attempts_of_a_send(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, take_all: Take, retry: bool
) -> None:
    """F07: maxReconnectAttempts ends a send; the next one begins a new round."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, maxReconnectAttempts=3, timeout=-1)
    prepare(connection, unique)
    cut_off(proxy)
    with pytest.raises(ConnectFailed) as caught:
        send(connection, unique, retry=retry)
    assert isinstance(caught.value, OperationalError)
    assert len(caught.value.attempts) == 1
    proxy.heal()
    send(connection, unique, "again", retry=retry)
    assert [m.body for m in take_all(rabbit_a, unique)] == ["again"]


def test_f16_timeout_does_not_end_a_worker_s_wait(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F16: ConsumerMixin waits for a broker as long as it takes, whatever ``timeout`` says."""
    from kombu.mixins import ConsumerMixin

    class Worker(ConsumerMixin):
        is_ready = False

        def __init__(self, connection: kombu.Connection) -> None:
            self.connection = connection

        def get_consumers(self, consumer: Any, channel: Any) -> Any:
            return [consumer(kombu.Queue(unique))]

        def on_consume_ready(self, *args: Any, **kwargs: Any) -> None:
            self.is_ready = True

    proxy = lab.proxy(rabbit_a)
    cut_off(proxy)
    connection = lab.connect(proxy, timeout=1000)
    worker = Worker(connection)
    running = lab.background(worker.run)
    supervisor = connection.transport.broker.supervisor
    assert wait_until(lambda: supervisor._machine.passes_failed > 4)
    assert not running.is_over_within(1.5)
    proxy.heal()
    assert wait_until(lambda: worker.is_ready)
    worker.should_stop = True
    running.join()


@pytest.mark.parametrize("retry", [False, True])
def test_f08_reconnect_false(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, events: Events, retry: bool
) -> None:
    """F08: told once, no Interrupted, no Resumed; the next send raises, and no new link is made."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, reconnect="false", on_event=events.add)
    prepare(connection, unique)
    send(connection, unique)
    accepted = proxy.accepted
    proxy.reset()
    for _ in range(2):
        with pytest.raises(ConnectionLost) as caught:
            send(connection, unique, retry=retry)
        assert isinstance(caught.value, OperationalError)
    assert wait_until(lambda: "GaveUp" in events.names)
    assert events.names == ["Connected", "GaveUp"]
    assert proxy.accepted == accepted


@pytest.mark.parametrize("wrong", ["password", "vhost"])
def test_f07_wrong_member_is_passed_over_and_told_once(
    lab: Lab,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    unique: str,
    our_log: pytest.LogCaptureFixture,
    wrong: str,
) -> None:
    """A wrong password or vhost of one member: the next is used; its cause is logged once."""
    user = "guest:wrong-pa55" if wrong == "password" else "guest:guest"
    vhost = "nowhere" if wrong == "vhost" else "/"
    bad = f"amqp://{user}@127.0.0.1:{rabbit_a.port}/{vhost}"
    good = lab.proxy(rabbit_b)
    connection = lab.connect(bad, good, initialReconnectDelay=1)
    prepare(connection, unique)
    for number in range(4):
        send(connection, unique, str(number))
        good.reset()
    send(connection, unique)
    lines = [record.getMessage() for record in our_log.records]  # a reset may meet a dial to good
    told = [line for line in lines if "cannot connect" in line and f":{rabbit_a.port}/" in line]
    assert len(told) == 1, lines
    assert {"password": "AccessRefused", "vhost": "NotAllowed"}[wrong] in told[0]
    assert "pa55" not in our_log.text


# --- F39: close while waiting --------------------------------------------------------------------


def test_f39_close_while_a_send_waits(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """F39: close() from another thread ends a send that waits for a broker, and itself at once."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=-1, closeTimeout=60000)
    prepare(connection, unique)
    send(connection, unique)
    cut_off(proxy)
    sending = lab.background(lambda: send(connection, unique))
    supervisor = connection.transport.broker.supervisor
    assert wait_until(lambda: supervisor._machine.passes_failed >= 2)
    lab.background(connection.close).join(20)
    assert sending.is_over_within(20)
    assert isinstance(sending.error, OperationalError)
    assert "closed while this call waited" in str(sending.error)


def test_f39_close_while_a_send_waits_for_its_confirm(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F39: the same with a silent broker."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, timeout=-1, closeTimeout=60000)
    prepare(connection, unique)
    send(connection, unique)
    proxy.black_hole()
    up = proxy.bytes_up
    sending = lab.background(lambda: send(connection, unique))
    time.sleep(0.3)  # let it write; nothing of it can be seen from here
    assert proxy.bytes_up == up
    lab.background(connection.close).join(20)
    assert sending.is_over_within(20)
    assert isinstance(sending.error, OperationalError)


@pytest.mark.parametrize("fault", ["refuse", "silent"])
def test_f39_close_while_connecting(
    lab: Lab, rabbit_a: RabbitMQ, nobody: Callable[[], str], fault: str
) -> None:
    """F39: close() during the very first connect()."""
    place: Any = nobody() if fault == "refuse" else lab.peer(handshake="silent")
    connection = lab.connect(place, connectTimeout=60000, closeTimeout=60000, timeout=-1)
    supervisor = connection.transport.broker.supervisor
    connecting = lab.background(connection.connect)
    assert wait_until(lambda: len(supervisor._control.waiters) > 0)
    lab.background(connection.close).join(20)
    assert connecting.is_over_within(20)
    assert isinstance(connecting.error, OperationalError)


@pytest.mark.parametrize("fault", ["black_hole", "reset"])
def test_f39_leaving_with_a_dead_broker(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, fault: str
) -> None:
    """F39: leaving ``with`` never waits for a dead peer."""
    proxy = lab.proxy(rabbit_a)

    def use() -> None:
        with lab.connect(proxy, closeTimeout=60000) as connection:
            prepare(connection, unique)
            send(connection, unique)
            getattr(proxy, fault)()

    lab.background(use).join(30)


def test_a_closed_connection_can_be_used_again(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """kombu's close() is not final: the next use connects again."""
    connection = lab.connect(rabbit_a)
    prepare(connection, unique)
    connection.close()
    connection.connect()
    send(connection, unique)
    assert rabbit_a.queue_depth(unique) == 1


def test_attempts_are_public(lab: Lab, nobody: Callable[[], str]) -> None:
    """The errors that tests catch here are those of the package."""
    assert understudy.SendTimeout is SendTimeout
    assert understudy.ConnectFailed is ConnectFailed
