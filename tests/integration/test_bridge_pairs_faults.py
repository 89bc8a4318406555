"""Links between all kinds of brokers when a network, a queue, a right or a broker fails: the state
is shown, nothing is lost, and the link goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.content import AmqpContent
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.wire.properties import read
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.pairs import PAIRS, Pair, over
from understudyd.testing.sides import AmqpSide, Side, StompSide

pytestmark = pytest.mark.integration

WINDOW = 100
SMALL = "wireFormat.maxFrameSize=10000"


def port_of(one: Side) -> int:
    return int(one.uri.rpartition(":")[2])


def through(one: Side, proxy: FaultProxy) -> str:
    return one.uri.replace(f":{port_of(one)}", f":{proxy.port}") + "?heartbeat=1000"


@over(*PAIRS)
def test_a_cut_at_either_end_loses_nothing_and_keeps_the_order(pair: Pair) -> None:
    """Scenarios 18 and 39: no more is doubled than the window for each cut."""
    sent = [b"%06d" % n + b"x" * 200 for n in range(3_000)]
    pair.source.fill(pair.here, sent)
    with (
        FaultProxy("127.0.0.1", port_of(pair.source)) as here,
        FaultProxy("127.0.0.1", port_of(pair.target)) as there,
    ):
        ways = {"source": through(pair.source, here), "target": through(pair.target, there)}
        with pair.link(**ways, settings=LinkSettings(prefetch=WINDOW)) as link:
            for proxy in (there, here, there):
                before = link.forwarded
                link.await_forwarded(before + 300)
                proxy.reset()
            link.await_forwarded(len(sent))
            until(lambda: link.state == "running" and not link.in_flight, "all is settled")
    arrived = pair.arrived()
    assert pair.left() == []
    assert list(dict.fromkeys(arrived)) == sent, "lost, or out of order"
    assert len(arrived) - len(sent) <= 3 * WINDOW


@over(("amqp", "activemq"), ("activemq", "amqp"), ("rabbitmq-stomp", "rabbitmq-stomp"))
@pytest.mark.parametrize("end", ["source", "target"])
def test_a_silent_network_is_found_out(pair: Pair, end: str) -> None:
    """Scenario 18: a black hole, after which all goes on."""
    sent = [b"%06d" % n for n in range(2_000)]
    one = pair.source if end == "source" else pair.target
    with FaultProxy("127.0.0.1", port_of(one)) as proxy:
        settings = LinkSettings(prefetch=WINDOW)
        with pair.link(**{end: through(one, proxy)}, settings=settings) as link:
            link.await_state("running")
            pair.source.fill(pair.here, sent[:1000])
            link.await_forwarded(200)
            proxy.black_hole()
            pair.source.fill(pair.here, sent[1000:])
            link.await_state("holding", "waiting-source", "waiting-target", within=20)
            assert link.reason
            proxy.heal(drop=True)
            link.await_forwarded(len(sent))
            until(lambda: link.state == "running" and not link.in_flight, "all is settled")
    pair.check(sent, 2 * WINDOW)


@over(("activemq", "amqp"), ("rabbitmq-stomp", "amqp"), ("activemq", "rabbitmq-stomp"))
def test_a_full_queue_is_tried_again_without_a_hot_loop(
    sides: tuple[Side, Side], unique: str
) -> None:
    """Scenarios 21 and 23: RabbitMQ over STOMP goes away without a word."""
    pair = Pair(*sides, unique)
    pair.make({"x-max-length": 5, "x-overflow": "reject-publish"})
    sent = [b"%d" % n for n in range(40)]
    pair.source.fill(pair.here, sent)
    assert isinstance(pair.target.broker, RabbitMQ)
    looker = AmqpSide(pair.target.broker)
    found: list[bytes] = []

    def all_arrive() -> bool:
        found.extend(content.body for content in looker.take(pair.there))
        return set(found) >= set(sent)

    with pair.link() as link:
        link.await_state("retrying", "holding")
        until(lambda: looker.depth(pair.there) >= 5, "the queue is full")
        assert link.reason
        spent = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - spent < 0.4, "it is busy"
        until(all_arrive, "all arrive")
        link.await_state("running")
        until(lambda: not link.in_flight, "all is settled")
        found.extend(content.body for content in looker.take(pair.there))
    assert set(found) == set(sent)
    assert len(found) - len(sent) <= (0 if pair.target.kind == "amqp" else len(sent))
    assert pair.left() == []
    pair.remove()


@over(("rabbitmq-stomp", "amqp"), ("amqp", "activemq"))
def test_a_queue_that_is_deleted_and_made_again_is_used_again(pair: Pair) -> None:
    """Scenario 26."""
    pair.source.fill(pair.here, [b"1"])
    with pair.link() as link:
        link.await_forwarded(1)
        pair.source.remove(pair.here)
        link.await_state("waiting-source")
        until(lambda: pair.here in link.reason, "the reason names the queue")
        pair.source.make(pair.here)
        pair.source.fill(pair.here, [b"2"])
        link.await_forwarded(2)
        until(lambda: not link.in_flight, "all is settled")
    assert pair.arrived() == [b"1", b"2"]


@over(("amqp", "amqp"), ("rabbitmq-stomp", "amqp"))
def test_a_message_that_activemq_closes_over_is_found_and_parked_at_the_source(
    sides: tuple[Side, Side], launch: Callable[[Any], Any], unique: str
) -> None:
    """Scenarios 5, 34 and 35: what it was, though it had been said in STOMP; the rest arrives."""
    source = sides[0]
    pair = Pair(source, StompSide(launch(ActiveMQ(stomp_options=SMALL))), unique)
    pair.make()
    sent = [b"%d" % n for n in range(40)]
    large = b"x" * 20_000
    source.fill(pair.here, [*sent[:20], large, *sent[20:]])
    with pair.link() as link:
        until(lambda: link.parked == 1, "it is parked")
        link.await_state("running")
        until(lambda: not link.in_flight, "all is settled")
    assert list(dict.fromkeys(pair.arrived())) == sent
    (parked,) = source.take(pair.parking)
    assert parked.body == large
    if isinstance(parked, AmqpContent):
        fields = read(parked.properties)
        headers = fields.pop("headers")
        assert fields == {"delivery_mode": 2}
        assert isinstance(headers, dict)
        assert all(name.startswith("x-understudy-parked-") for name in headers)
        assert "maximum frame size" in str(headers["x-understudy-parked-reason"])
    source.remove(pair.here)
    source.remove(pair.parking)


@over(("activemq", "amqp"), ("activemq", "activemq"))
def test_wildcards_of_queues_are_read_in_one(sides: tuple[Side, Side], unique: str) -> None:
    """B04: each goes to the queue of its own name, or of what that is renamed to."""
    source, target = sides
    root = unique.replace(".", "-")
    for name in ("a", "b.c"):
        target.make(f"{root}.out.{name}")
    rename = {f"queue://{root}.in.>": f"queue://{root}.out.>"}
    with RunningLink(
        source.uri, target.uri, f"queue://{root}.in.>", rename=rename, name=root, network_ttl=-1
    ) as link:
        link.await_state("running")
        for name in ("a", "b.c"):
            source.fill(f"{root}.in.{name}", [name.encode()])
        link.await_forwarded(2)
        until(lambda: not link.in_flight, "all is settled")
    for name in ("a", "b.c"):
        assert [c.body for c in target.take(f"{root}.out.{name}")] == [name.encode()]
        target.remove(f"{root}.out.{name}")


@over(("activemq", "amqp"), ("amqp", "activemq"))
def test_brokers_may_come_later_than_the_bridge(pair: Pair) -> None:
    """J02: both are away at first."""
    pair.source.fill(pair.here, [b"1", b"2"])
    with (
        FaultProxy("127.0.0.1", port_of(pair.source)) as here,
        FaultProxy("127.0.0.1", port_of(pair.target)) as there,
    ):
        here.refuse()
        there.refuse()
        ways = {"source": through(pair.source, here), "target": through(pair.target, there)}
        with pair.link(**ways) as link:
            link.await_state("waiting-target")
            assert link.reason
            there.heal()
            link.await_state("waiting-source")
            here.heal()
            link.await_forwarded(2)
    assert pair.arrived() == [b"1", b"2"]


@over(("activemq", "amqp"), ("amqp", "activemq"))
def test_what_is_held_too_long_is_given_back(pair: Pair) -> None:
    """Scenario 33."""
    with FaultProxy("127.0.0.1", port_of(pair.target)) as proxy:
        settings = LinkSettings(hold_time=0.5)
        with pair.link(target=through(pair.target, proxy), settings=settings) as link:
            link.await_state("running")
            proxy.refuse()
            proxy.reset()
            link.await_state("holding", "waiting-target")
            sent = [b"%d" % n for n in range(50)]
            pair.source.fill(pair.here, sent)
            link.await_state("waiting-target")
            assert link.in_flight == 0
            assert pair.left() == sent
            pair.source.fill(pair.here, sent)
            proxy.heal()
            link.await_forwarded(50)
    assert pair.arrived() == sent


@over(("activemq", "amqp"), ("activemq", "rabbitmq-stomp"))
def test_a_blocked_target_stops_the_reading_and_others_go_on(
    pair: Pair, rabbit_b: RabbitMQ, activemq: ActiveMQ, unique: str
) -> None:
    """Scenario 24: an alarm. Another link, to another broker, is not concerned."""
    other = Pair(StompSide(activemq), StompSide(activemq), f"{unique}.other")
    sent = [b"%06d" % n + b"x" * 1000 for n in range(2_000)]
    settings = LinkSettings(confirm_timeout=120.0)
    with pair.link(settings=settings) as link, other.link() as free:
        link.await_state("running")
        pair.source.fill(pair.here, sent[:10])
        link.await_forwarded(10)
        rabbit_b.ctl("set_vm_memory_high_watermark", "0.0001")
        try:
            pair.source.fill(pair.here, sent[10:])
            if pair.target.kind == "amqp":
                link.await_state("blocked")
            until(lambda: link.in_flight, "it waits")
            other.source.fill(other.here, sent[:200])
            free.await_forwarded(200)
            assert link.in_flight <= 1000
            assert link.forwarded < len(sent)
        finally:
            rabbit_b.ctl("set_vm_memory_high_watermark", "0.9")
        link.await_forwarded(len(sent))
        until(lambda: not link.in_flight, "all is settled")
    assert pair.arrived() == sent
    assert other.arrived() == sent[:200]


@pytest.mark.slow
@pytest.mark.chaos
def test_a_right_that_is_revoked_and_a_password_that_changes(
    launch: Callable[[Any], Any], activemq: ActiveMQ, unique: str
) -> None:
    """Scenario 29, at RabbitMQ over AMQP and STOMP: told without the password, until it is mended.
    A connection goes on with the rights it had, so it is ended."""
    node = launch(RabbitMQ(stomp=True))
    node.ctl("add_user", "bridge", "s3cret-1")
    grant = ["set_permissions", "bridge", ".*", ".*", ".*"]
    source = StompSide(activemq)
    for target in (AmqpSide(node), StompSide(node)):
        node.ctl(*grant)
        pair = Pair(source, target, f"{unique}.{target.kind}")
        pair.make()
        with FaultProxy("127.0.0.1", port_of(target)) as proxy:
            uri = through(target, proxy).replace("guest:guest", "bridge:s3cret-1")
            with pair.link(target=uri, settings=LinkSettings(hold_time=0.5)) as link:
                source.fill(pair.here, [b"1"])
                link.await_forwarded(1)
                node.ctl("set_permissions", "bridge", ".*", "^$", ".*")
                proxy.reset()
                source.fill(pair.here, [b"2"])
                told(link, "access to", "access_refused")
                node.ctl(*grant)
                link.await_forwarded(2)
                node.ctl("change_password", "bridge", "s3cret-2")
                proxy.reset()
                source.fill(pair.here, [b"3"])
                told(link, "access_refused", "bad connect", "access refused")
                node.ctl("change_password", "bridge", "s3cret-1")
                link.await_forwarded(3)
        assert pair.arrived() == [b"1", b"2", b"3"]


def told(link: RunningLink, *words: str) -> None:
    """Wait until the reason has one of these words."""
    until(lambda: any(word in link.reason.lower() for word in words), f"the reason: {words}")
    assert "s3cret" not in link.reason
    assert link.state in ("holding", "waiting-target", "running")
