"""The ends of a link: lists of brokers, TLS, large bodies, a target that stays away."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import pika
import pytest
from amqp import Channel

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudyd.bridge.settings import LinkSettings
from understudyd.testing.bridged import BridgeProcess, RunningLink, until

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]


def publish(plain: Plain, node: RabbitMQ, queue: str, *bodies: bytes) -> None:
    channel = plain(node)
    channel.confirm_select()
    for body in bodies:
        channel.basic_publish_confirm(amqp.Message(body, delivery_mode=2), routing_key=queue)


def through(node: RabbitMQ, proxy: FaultProxy) -> str:
    return node.uri.replace(f"{node.host}:{node.port}", f"{proxy.host}:{proxy.port}")


@pytest.mark.parametrize("scheme", ["failover", "masterslave", "static"])
def test_an_end_is_any_list_of_brokers(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, scheme: str
) -> None:
    """The first of the list is down; when the one in use dies, another takes its place."""
    with socket.socket() as nobody, FaultProxy(rabbit_b.host, rabbit_b.port) as other:
        nobody.bind(("127.0.0.1", 0))
        dead = f"amqp://guest:guest@127.0.0.1:{nobody.getsockname()[1]}"
        target = f"{scheme}:({dead},{through(rabbit_b, other)},{rabbit_b.uri})"
        with RunningLink(rabbit_a.uri, target, queue) as link:
            publish(plain, rabbit_a, queue, b"1")
            link.await_forwarded(1)
            other.refuse()
            other.reset()
            publish(plain, rabbit_a, queue, b"2")
            link.await_forwarded(2)
    until(lambda: rabbit_b.queue_depth(queue) == 2, "both have arrived")


def test_a_certificate_is_verified_unless_the_uri_says_otherwise(
    plain: Plain, rabbit_a: RabbitMQ, launch: Any, certificate: Path, queue: str
) -> None:
    """Scenario 67."""
    port = _free_port()
    secure = launch(
        RabbitMQ(
            settings={
                "listeners.ssl.1": f"127.0.0.1:{port}",
                "ssl_options.certfile": str(certificate.with_suffix(".crt")),
                "ssl_options.keyfile": str(certificate),
                "ssl_options.cacertfile": str(certificate.with_suffix(".crt")),
                "ssl_options.verify": "verify_none",
            }
        )
    )
    plain(secure).queue_declare(queue, durable=True, auto_delete=False)
    address = f"amqps://guest:guest@{{}}:{port}"
    trusted = f"cafile={certificate.with_suffix('.crt')}"
    with RunningLink(rabbit_a.uri, address.format("localhost"), queue) as link:
        until(lambda: "its certificate was not accepted" in link.reason, "it is not trusted")
        assert "guest:guest" not in link.reason
    with RunningLink(rabbit_a.uri, f"{address.format('127.0.0.1')}?{trusted}", queue) as link:
        until(lambda: "its certificate was not accepted" in link.reason, "it is for localhost")
    publish(plain, rabbit_a, queue, b"1")
    with RunningLink(rabbit_a.uri, f"{address.format('localhost')}?{trusted}", queue) as link:
        link.await_forwarded(1)
    publish(plain, rabbit_a, queue, b"2")
    with RunningLink(rabbit_a.uri, f"{address.format('127.0.0.1')}?verify=false", queue) as link:
        link.await_forwarded(1)
    assert secure.queue_depth(queue) == 2


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_body_of_100_mb_goes_through_in_bounded_memory(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 4: less than three times its size."""
    size = 100_000_000
    body = b"0123456789" * (size // 10)
    publish(plain, rabbit_a, queue, body, b"after")
    with BridgeProcess(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        until(lambda: rabbit_b.queue_depth(queue) == 2, "both have arrived")
        assert bridge.process is not None
        status = Path(f"/proc/{bridge.process.pid}/status").read_text(encoding="ascii")
        (peak,) = [int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line]
        assert bridge.stop() == 0
    assert peak * 1024 < 3 * size + 60_000_000
    channel = plain(rabbit_b)
    first = channel.basic_get(queue, no_ack=True)
    assert first is not None
    assert (first.body.encode() if isinstance(first.body, str) else first.body) == body


def test_bodies_go_in_frames_that_the_target_takes(
    plain: Plain, rabbit_a: RabbitMQ, launch: Any, queue: str
) -> None:
    """The source is asked for frames as small; headers that do not fit are parked there."""
    small = launch(RabbitMQ(settings={"frame_max": "8192"}))
    plain(small).queue_declare(queue, durable=True, auto_delete=False)
    channel = plain(rabbit_a)
    body = b"0123456789" * 5_000
    large = {"large": "x" * 9_000}
    for headers in ({}, large, {}):
        message = amqp.Message(body, delivery_mode=2, application_headers=headers)
        channel.basic_publish(message, routing_key=queue)
    with RunningLink(rabbit_a.uri, small.uri, queue, name=queue) as link:
        until(lambda: link.parked == 1, "the one with large headers is parked")
        until(lambda: rabbit_a.queue_depth(queue) == 0 and not link.in_flight, "all is settled")
    first = plain(small).basic_get(queue, no_ack=True)
    assert first is not None
    assert (first.body.encode() if isinstance(first.body, str) else first.body) == body
    parking = f"understudy.parking.{queue}"
    parked = channel.basic_get(parking, no_ack=True)
    assert parked is not None
    assert parked.properties["application_headers"]["large"] == large["large"]
    channel.queue_delete(parking)


def test_headers_larger_than_a_frame_stop_nothing(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """RabbitMQ takes headers 8 bytes larger than was agreed on, and delivers them so."""
    channel = plain(rabbit_a)
    large = {"k": "v" * (131072 - 42)}  # with the rest of the properties as many bytes as a frame
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_a.uri))) as other:
        properties = pika.BasicProperties(headers=large, delivery_mode=2)
        for body in (b"before", b"large", b"after"):
            given = properties if body == b"large" else pika.BasicProperties(delivery_mode=2)
            other.channel().basic_publish("", queue, body, given)
    with RunningLink(rabbit_a.uri, rabbit_b.uri, queue, name=queue) as link:
        until(lambda: link.parked == 1, "the one with large headers is parked")
        until(lambda: rabbit_a.queue_depth(queue) == 0 and not link.in_flight, "all is settled")
    assert rabbit_b.queue_depth(queue) == 2
    parking = f"understudy.parking.{queue}"
    assert channel.queue_declare(parking, passive=True).message_count == 1
    channel.queue_delete(parking)


def test_what_is_held_too_long_is_given_back_and_goes_on_when_the_target_is_back(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 33: the broker of the source must not wait for acknowledgements for ever."""
    with FaultProxy(rabbit_b.host, rabbit_b.port) as proxy:
        settings = LinkSettings(hold_time=1.0)
        with RunningLink(rabbit_a.uri, through(rabbit_b, proxy), queue, settings=settings) as link:
            link.await_state("running")
            proxy.refuse()
            proxy.reset()
            link.await_state("holding", "waiting-target")
            publish(plain, rabbit_a, queue, *[b"%d" % n for n in range(50)])
            link.await_state("waiting-target")
            until(lambda: rabbit_a.queue_depth(queue) == 50, "all were given back")
            assert link.in_flight == 0
            proxy.heal()
            link.await_forwarded(50)
    assert rabbit_b.queue_depth(queue) == 50


def test_a_target_that_takes_a_byte_at_a_time_is_no_reason_to_settle_or_to_grow(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    """Scenario 19."""
    size = 100_000
    publish(plain, rabbit_a, queue, *[b"x" * size] * 40)
    with FaultProxy(rabbit_b.host, rabbit_b.port) as proxy:
        proxy.throttle(50_000)
        settings = LinkSettings(size=1_000_000, drain_time=0.1)
        uri = f"{through(rabbit_b, proxy)}?heartbeat=0"
        with RunningLink(rabbit_a.uri, uri, queue, settings=settings) as link:
            until(lambda: link.forwarded >= 2, "it begins")
            assert link.in_flight_bytes <= 1_000_000 + 500_000
            assert link.forwarded * size <= proxy.bytes_up
            assert link.state == "running"
    until(lambda: rabbit_a.queue_depth(queue) + rabbit_b.queue_depth(queue) >= 40, "all are there")


def test_a_message_larger_than_the_target_takes_is_parked_at_the_source(
    plain: Plain, rabbit_a: RabbitMQ, launch: Any, queue: str
) -> None:
    """Scenario 5: the rest goes on, and nothing is tried for ever."""
    small = launch(RabbitMQ(settings={"max_message_size": "1000"}))
    plain(small).queue_declare(queue, durable=True, auto_delete=False)
    publish(plain, rabbit_a, queue, b"before", b"x" * 2000, b"after")
    parking = f"understudy.parking.{queue}"
    with RunningLink(rabbit_a.uri, small.uri, queue, name=queue) as link:
        until(lambda: link.parked == 1, "it is parked")
        link.await_state("running")
        until(lambda: not link.in_flight, "all is settled")
    assert rabbit_a.queue_depth(queue) == 0
    parked = plain(rabbit_a).basic_get(parking, no_ack=True)
    assert parked is not None
    reason = parked.properties["application_headers"]["x-understudy-parked-reason"]
    assert reason.startswith("406 PRECONDITION_FAILED")
    assert len(parked.body) == 2000
    assert small.queue_depth(queue) in (2, 3)  # what was in doubt may be there twice
    plain(rabbit_a).queue_delete(parking)


def test_a_bridge_process_says_what_it_does_and_ends_in_order(
    tmp_path: Path, plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str
) -> None:
    publish(plain, rabbit_a, queue, b"1")
    with BridgeProcess(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        until(lambda: rabbit_b.queue_depth(queue) == 1, "it has arrived")
        assert bridge.stop() == 0
    assert f"bridge test queue://{queue} is running" in bridge.log
    assert f"bridge test queue://{queue} is stopped" in bridge.log
    assert "guest:guest" not in bridge.log
