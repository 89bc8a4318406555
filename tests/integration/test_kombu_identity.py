"""What a failover connection shows of itself, and what it shares with copies, pools and forks."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import kombu
import pytest
from kombu import pools

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.kombu_lab import prepare, send

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Lab

pytestmark = pytest.mark.integration

PASSWORD = "p@ss:/%;,)w"
ENCODED = quote(PASSWORD, safe="")
URI = f"failover:(amqp://u:{ENCODED}@a:5672//,redis://:{ENCODED}@b/0)?timeout=3000"


def assert_secret_free(text: str) -> None:
    for secret in (PASSWORD, ENCODED, "p@ss", "p%40ss", "%3B%2C%29w", ";,)w"):
        assert secret not in text, text


def test_no_password_is_shown() -> None:
    """repr, as_uri, info(), str of the parts: masked, and still recognisable."""
    connection = kombu.Connection(URI)
    transport = connection.transport
    shown = [
        repr(connection),
        connection.as_uri(),
        repr(connection.info()),
        json.dumps(connection.info(), default=str),
        repr(transport),
        repr(transport.broker),
        repr(transport.broker.supervisor),
        repr(transport.broker.uri),
        str(connection.hostname),
        repr(connection.hostname),
        f"{connection.hostname}",
        "%s" % (connection.hostname,),  # noqa: UP031
        repr(connection.clone()),
        repr(list(pools.producers)),
    ]
    for text in shown:
        assert_secret_free(text)
    assert "a:5672" in connection.as_uri()
    assert "u:**@" in connection.as_uri()
    assert ENCODED in connection.as_uri(include_password=True)


def test_copies_are_the_same_connection() -> None:
    """pickle, copy, clone and pools keys go by the real URI."""
    connection = kombu.Connection(URI)
    _ = connection.transport
    copies = [
        pickle.loads(pickle.dumps(connection)),
        copy.copy(connection),
        connection.clone(),
        kombu.Connection(URI),
    ]
    for other in copies:
        assert other.as_uri(include_password=True) == connection.as_uri(include_password=True)
        assert other.transport.broker is connection.transport.broker
        assert pools.connections[other] is pools.connections[connection]
        assert pools.producers[other] is pools.producers[connection]
    different = kombu.Connection(URI.replace(ENCODED, "other"))
    _ = different.transport
    assert different.as_uri() == connection.as_uri()
    assert different.transport.broker is not connection.transport.broker
    assert pools.connections[different] is not pools.connections[connection]
    pools.reset()


def test_no_password_in_errors_and_logs(
    lab: Lab, our_log: pytest.LogCaptureFixture, events: Events
) -> None:
    """Attempts, GaveUp, SlowReconnect and the log name endpoints, not passwords."""
    deaf = lab.peer(handshake="wrong_auth")
    uri = f"amqp://u:{ENCODED}@127.0.0.1:{deaf.port}/v"
    connection = lab.connect(
        uri, maxReconnectAttempts=3, warnAfterReconnectAttempts=1, on_event=events.add
    )
    with pytest.raises(kombu.exceptions.OperationalError) as caught:
        connection.connect()
    assert wait_until(lambda: "GaveUp" in events.names)
    for text in (str(caught.value), repr(caught.value), our_log.text, repr(events.all)):
        assert_secret_free(text)


def test_pools_survive(lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str) -> None:
    """kombu.pools: producers taken after a failover publish on the next broker."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    prepare(connection, unique)
    for text in ("one", "two"):
        with pools.producers[connection].acquire(block=True) as producer:
            producer.publish(text, routing_key=unique, serializer="raw")
        proxy.refuse()
        proxy.reset()
    pools.reset()
    assert rabbit_b.queue_depth(unique) == 1


# --- forks ---------------------------------------------------------------------------------------


def in_child(call: Any) -> int:
    """Run ``call`` in a forked child; its exit code, 1 when it raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(call() or 0)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_forked_child_leaves_the_parents_connection_alone(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """Not a byte of the child's on the parent's socket; the child sends over one of its own."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, heartbeat=0, backup="true")
    prepare(connection, unique)
    send(connection, unique)
    accepted, up = proxy.accepted, proxy.bytes_up
    assert in_child(lambda: connection.close()) == 0
    assert (proxy.accepted, proxy.bytes_up, proxy.connections) == (accepted, up, accepted)

    def child() -> None:
        send(connection, unique)
        connection.close()

    assert in_child(child) == 0
    assert proxy.accepted == accepted + 1
    send(connection, unique)
    assert proxy.accepted == accepted + 1
    connection.close()
    assert rabbit_a.queue_depth(unique) == 3


def test_fork_while_another_thread_sends(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """Forks at any moment of a send: no child hangs, no message of the parent's is lost."""
    connection = lab.connect(rabbit_a)
    prepare(connection, unique)
    is_over = threading.Event()
    sent = 0

    def stream() -> None:
        nonlocal sent
        while not is_over.is_set():
            send(connection, unique)
            sent += 1

    streaming = lab.background(stream)
    children = 0
    for _ in range(10):
        children += in_child(lambda: send(connection, unique)) == 0
    is_over.set()
    streaming.join()
    assert children == 10
    connection.close()
    assert rabbit_a.queue_depth(unique) == sent + 10


# --- leaks ---------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("track", ["false", "true"])
def test_twenty_failovers_leak_nothing(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, track: str
) -> None:
    """Threads and descriptors after 20 failovers are as many as after two."""
    from understudy.kombu import flush

    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, initialReconnectDelay=1, heartbeat=1000, trackMessages=track)
    prepare(connection, unique)

    def count() -> tuple[int, int, int]:
        return threading.active_count(), descriptors(), proxy.connections

    gc.disable()  # what is freed by chance is a leak here
    try:
        for turn in range(20):
            send(connection, unique)
            assert flush(30)
            if turn == 2:
                before = count()
            if turn < 19:
                proxy.reset()
        # a link that is being replaced has three ends in this process
        bounds = [number + more for number, more in zip(before, (1, 6, 1), strict=True)]
        assert wait_until(lambda: all(n <= m for n, m in zip(count(), bounds, strict=True))), (
            f"{before} became {count()}"
        )
    finally:
        gc.enable()


def test_a_closed_connection_leaves_nothing(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """After close() no socket is left, whatever was used."""
    proxy = lab.proxy(rabbit_a)
    for options in ({}, {"backup": "true"}, {"trackMessages": "true"}):
        connection = lab.connect(proxy, lab.peer(), heartbeat=1000, **options)
        prepare(connection, unique)
        send(connection, unique)
        connection.close()
        assert wait_until(lambda: proxy.connections == 0), options
