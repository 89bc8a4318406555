"""What the connections of one process have in common: a broker's limits, signals, threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import kombu
import pytest

import understudy.kombu
from understudy.errors import ConnectFailed, SendTimeout
from understudy.failover import notifier, worker
from understudy.kombu import sender
from understudy.testing import wait_until
from understudy.testing.amqp_peer import always_ack
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.alarm import relieve, starve

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


@pytest.fixture
def crowded(rabbit_a: RabbitMQ, unique: str) -> Iterator[str]:
    """A vhost that takes two connections."""
    rabbit_a.ctl("add_vhost", unique)
    rabbit_a.ctl("set_permissions", "-p", unique, "guest", ".*", ".*", ".*")
    rabbit_a.ctl("set_vhost_limits", "-p", unique, '{"max-connections": 2}')
    yield unique
    rabbit_a.ctl("delete_vhost", unique)


def counts(broker: RabbitMQ, vhost: str, connections: int) -> bool:
    """Whether its limit sees so many; it counts them some time after it has let them in or out."""
    question = f"rabbit_connection_tracking:count_tracked_items_in({{vhost, <<{vhost!r}>>}})."
    answer = broker.ctl("eval", question.replace("'", '"'))
    return int(answer) == connections


@pytest.mark.parametrize("passes", [0, 2])
def test_a_connection_limit_concerns_who_asks(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, crowded: str, events: Events, passes: int
) -> None:
    """Those who have a connection keep it, and nobody moves to a broker with the same limit."""
    full = f"amqp://guest:guest@{rabbit_a.host}:{rabbit_a.port}/{crowded}"
    options = {"timeout": 5000, "maxReconnectDelay": 200, "maxReconnectAttempts": passes}
    uri = lab.uri(full, rabbit_b, **options)
    ours = {"understudy": {"on_event": events.add}}
    one, two, three = (kombu.Connection(uri, transport_options=ours) for _ in range(3))
    lab.connections += [one, two, three]
    one.connect()
    two.connect()
    assert wait_until(lambda: counts(rabbit_a, crowded, 2), 30)
    with pytest.raises(ConnectFailed if passes else SendTimeout) as caught:
        three.connect()
    assert "connection limit" in str(caught.value)
    assert one.channel().is_open
    two.close()
    assert wait_until(lambda: counts(rabbit_a, crowded, 1), 30)
    three.connect()
    assert three.channel().is_open
    assert one.connected
    assert set(events.names) <= {"Connected", "SlowReconnect"}


def test_f53_a_signal_handler_publishes_on_the_connection_that_it_interrupts(lab: Lab) -> None:
    """F53: the outer send gets its confirm all the same, and both arrive once."""
    second_has_come = threading.Event()

    def on_publish(connection: Any, nth: int, message: Any) -> Any:
        if message.body == b"outer":
            os.kill(os.getpid(), signal.SIGUSR1)
            second_has_come.wait(60)
        if message.body == b"nested":
            second_has_come.set()
        return always_ack(connection, nth, message)

    peer = lab.peer(on_publish=on_publish)
    connection = lab.connect(peer, timeout=90000)
    producer = kombu.Producer(connection)

    def handler(*_: object) -> None:
        producer.publish("nested", routing_key="q", serializer="raw")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        producer.publish("first", routing_key="q", serializer="raw")
        producer.publish("outer", routing_key="q", serializer="raw")
        producer.publish("last", routing_key="q", serializer="raw")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert second_has_come.is_set()
    bodies = [message.body for message in peer.messages]
    assert sorted(bodies) == [b"first", b"last", b"nested", b"outer"]
    assert len(peer.history) == 2


def test_f41_a_uri_that_nobody_uses_keeps_no_thread(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (notifier, worker, sender):
        monkeypatch.setattr(module, "IDLE_TIME", 0.05)
    before = set(threading.enumerate())

    def own_threads() -> list[threading.Thread]:
        return [
            thread
            for thread in threading.enumerate()
            if thread not in before and thread.name != "understudy-monitor"
        ]

    first = 0
    for turn in range(6):
        with lab.connect(rabbit_a, trackMessages="true", maxReconnectDelay=100) as connection:
            queue = kombu.Queue(unique)
            producer = kombu.Producer(connection)
            producer.publish(str(turn), routing_key=unique, serializer="raw", declare=[queue])
            assert understudy.kombu.flush(60)
        assert wait_until(lambda: not own_threads(), 30), own_threads()
        first = first or len(os.listdir("/proc/self/fd"))
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= first)
    assert [message.body for message in take_all(rabbit_a, unique)] == list("012345")


@pytest.fixture
def alarmed(rabbit_a: RabbitMQ) -> Iterator[Callable[[], None]]:
    """Makes a broker block publishers, as it does when its memory is used up."""
    yield partial(starve, rabbit_a)
    relieve(rabbit_a)


@pytest.mark.parametrize("track", ["false", "true"])
def test_f20_a_broker_that_blocks_publishers_is_left_after_blocked_timeout(
    lab: Lab,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    alarmed: Callable[[], None],
    take_all: Take,
    unique: str,
    events: Events,
    track: str,
) -> None:
    """F20: a real memory alarm; what was held back is sent elsewhere."""
    options = {"blockedTimeout": 500, "heartbeat": 1000, "trackMessages": track}
    connection = lab.connect(rabbit_a, rabbit_b, on_event=events.add, timeout=60000, **options)
    producer = kombu.Producer(connection)
    queue = kombu.Queue(unique)
    producer.publish("0", routing_key=unique, serializer="raw", declare=[queue])
    assert understudy.kombu.flush(60)
    alarmed()
    for number in (1, 2, 3):
        producer.publish(str(number), routing_key=unique, serializer="raw")
    assert understudy.kombu.flush(60)
    assert events.names == ["Connected", "Blocked", "Interrupted", "Resumed"]
    assert "blockedTimeout=500 ms" in events.all[2].reason
    assert {"1", "2", "3"} <= {message.body for message in take_all(rabbit_b, unique)}
