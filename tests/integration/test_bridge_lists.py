"""Ends that are lists of brokers: a bridge follows the master, and returns to a preferred one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import amqp
import pytest
from amqp import Channel

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ, start_all
from understudyd.bridge.settings import LinkSettings
from understudyd.testing.bridged import RunningLink, until

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]
SOON = "connectTimeout=500&maxReconnectDelay=200&heartbeat=1000"


@pytest.fixture(scope="module")
def _third() -> Iterator[RabbitMQ]:
    node = RabbitMQ()
    yield node
    node.close()


@pytest.fixture
def third(_third: RabbitMQ, queue: str, plain: Plain) -> RabbitMQ:
    """A node for this file, running, with the queue; it may be killed."""
    start_all(_third)
    plain(_third).queue_declare(queue, durable=True, auto_delete=False)
    return _third


def publish(plain: Plain, node: RabbitMQ, queue: str, *bodies: bytes) -> None:
    channel = plain(node)
    channel.confirm_select()
    for body in bodies:
        channel.basic_publish_confirm(amqp.Message(body, delivery_mode=2), routing_key=queue)


def through(node: RabbitMQ, proxy: FaultProxy) -> str:
    return node.uri.replace(f"{node.host}:{node.port}", f"{proxy.host}:{proxy.port}")


def standby() -> socket.socket:
    """Takes connections and says nothing: a standby behind a balancer, or one that starts."""
    return socket.create_server(("127.0.0.1", 0))


def address(listener: socket.socket) -> str:
    return f"amqp://guest:guest@127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_bridge_follows_the_master_of_a_group(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, third: RabbitMQ, queue: str, end: str
) -> None:
    """B25, scenarios 59 and 60: the master is killed and the other member takes its place, which
    takes connections before it is the master."""
    master = third
    followed = rabbit_a if end == "source" else rabbit_b
    with standby() as waiting, FaultProxy(followed.host, followed.port) as other:
        # The second member: at first a standby that accepts, then the broker behind the proxy.
        other.black_hole()
        group = f"masterslave:({master.uri},{address(waiting)},{through(followed, other)})?{SOON}"
        uris = {"source": rabbit_a.uri, "target": rabbit_b.uri, end: group}
        source = master if end == "source" else rabbit_a
        sent = [b"%d" % n for n in range(300)]
        publish(plain, source, queue, *sent)
        settings = LinkSettings(prefetch=50)
        with RunningLink(uris["source"], uris["target"], queue, settings=settings) as link:
            until(lambda: link.forwarded >= 100, "it begins")
            master.kill()
            link.await_state("holding", "waiting-source", "waiting-target")
            other.heal(drop=True)
            if end == "source":
                publish(plain, rabbit_a, queue, b"from the new master")
            until(lambda: link.state == "running", "it has followed")
            done = link.forwarded
            until(lambda: rabbit_a.queue_depth(queue) == 0 and not link.in_flight, "all is moved")
            assert link.forwarded >= done
    if end == "source":
        channel = plain(rabbit_b)
        bodies = set()
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            bodies.add(message.body.encode() if isinstance(message.body, str) else message.body)
        assert b"from the new master" in bodies


def test_a_standby_that_accepts_and_says_nothing_is_passed_over(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    with standby() as waiting:
        target = f"masterslave:({address(waiting)},{rabbit_b.uri})?{SOON}"
        source = f"masterslave:({address(waiting)},{rabbit_a.uri})?{SOON}"
        publish(plain, rabbit_a, queue, b"1")
        with RunningLink(source, target, queue) as link:
            link.await_forwarded(1)
    assert rabbit_b.queue_depth(queue) == 1


def test_a_bridge_returns_to_a_preferred_broker_when_that_is_stable(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, third: RabbitMQ, queue: str
) -> None:
    """Scenario 61: without a double, since what is in flight is settled first."""
    spare = third
    with FaultProxy(rabbit_b.host, rabbit_b.port) as preferred:
        target = f"failover:({through(rabbit_b, preferred)},{spare.uri})?priorityBackup=true&{SOON}"
        with RunningLink(rabbit_a.uri, target, queue) as link:
            publish(plain, rabbit_a, queue, b"1")
            link.await_forwarded(1)
            assert rabbit_b.queue_depth(queue) == 1
            preferred.refuse()
            preferred.reset()
            publish(plain, rabbit_a, queue, b"2")
            link.await_forwarded(2)
            assert spare.queue_depth(queue) == 1
            preferred.heal()

            def comes_home() -> bool:
                publish(plain, rabbit_a, queue, b"3")
                return rabbit_b.queue_depth(queue) > 1

            until(comes_home, "it has returned")
            link.await_state("running")
            until(lambda: not link.in_flight, "all is settled")
        total = rabbit_b.queue_depth(queue) + spare.queue_depth(queue)
        assert total == link.forwarded, "some are doubled"


def test_a_pause_and_a_hold_that_ended_keep_the_member_in_use(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, third: RabbitMQ, queue: str
) -> None:
    """A source that was closed on purpose has not failed: the next one is not tried for that."""
    source = f"failover:({rabbit_a.uri},{third.uri})?randomize=false&{SOON}"
    with FaultProxy(rabbit_b.host, rabbit_b.port) as proxy:
        settings = LinkSettings(hold_time=0.2)
        target = f"{through(rabbit_b, proxy)}"
        with RunningLink(source, target, queue, settings=settings) as link:
            link.await_state("running")
            proxy.refuse()
            proxy.reset()
            link.await_state("waiting-target")
            proxy.heal()
            link.await_state("running")
            publish(plain, rabbit_a, queue, b"1")
            link.await_forwarded(1)


def test_brokers_are_discovered_before_each_pass(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """The file that lists them names nobody at first, then the one that is there."""
    uris = tmp_path / "uris"
    uris.write_text("")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        known = f"static:({address(nobody)})"
        target = f"discovery:({known},file:{uris})?discovered.allow=127.0.0.0/8&{SOON}"
        with RunningLink(rabbit_a.uri, target, queue) as link:
            publish(plain, rabbit_a, queue, b"1")
            link.await_state("waiting-target")
            uris.write_text(f"amqp://{rabbit_b.host}:{rabbit_b.port}")
            link.await_forwarded(1)
    assert rabbit_b.queue_depth(queue) == 1
